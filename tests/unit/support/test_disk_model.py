"""What a power cut may leave of a disk, and what it may not."""

import shutil
from pathlib import Path
from random import Random

import pytest
from disk_model import Allocate, Create, Disk, Operation, Remove, Rename, Resize, Sync, Write

ALWAYS = 10**9  # a sync that began after everything before it had ended


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


def files(directory: Path) -> dict[str, bytes]:
    """Content by path."""
    found = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def left(
    root: Path, *operations: Operation, begun: Operation | None = None, times: int = 100
) -> list[dict[str, bytes]]:
    """All the different sets of files that many power cuts leave."""
    disk = Disk(root)
    for operation in operations:
        disk.apply(operation)
    found: list[dict[str, bytes]] = []
    for seed in range(times):
        image = root.with_name("image")
        disk.write_image(image, Random(seed), begun)
        if files(image) not in found:
            found.append(files(image))
        shutil.rmtree(image)
    return found


def test_what_was_there_before_stays(root: Path) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "file").write_bytes(b"old\0\0")

    assert left(root) == [{"folder/file": b"old\0\0"}]


def test_an_unsynced_write_is_there_or_not(root: Path) -> None:
    (root / "file").write_bytes(b"old")

    assert sorted(map(str, left(root, Write(root / "file", 1, b"new")))) == [
        "{'file': b'old'}",
        "{'file': b'onew'}",
    ]


def test_a_synced_write_is_there(root: Path) -> None:
    (root / "file").write_bytes(b"old")

    assert left(root, Write(root / "file", 0, b"new"), Sync(root / "file", ALWAYS)) == [{"file": b"new"}]
    assert left(root, Write(root / "file", 0, b"new", is_synced=True)) == [{"file": b"new"}]


def test_a_sync_covers_only_what_had_ended_when_it_began(root: Path) -> None:
    (root / "file").write_bytes(b"old")

    found = left(root, Write(root / "file", 0, b"new"), Sync(root / "file", 0))

    assert {"file": b"old"} in found


def test_a_sync_covers_only_its_file(root: Path) -> None:
    (root / "file").write_bytes(b"old")
    (root / "other").write_bytes(b"old")

    found = left(root, Write(root / "file", 0, b"new"), Sync(root / "other", ALWAYS), Sync(root, ALWAYS))

    assert {"file": b"old", "other": b"old"} in found


def test_writes_survive_in_any_combination(root: Path) -> None:
    (root / "file").write_bytes(b"--")

    found = left(root, Write(root / "file", 0, b"a"), Write(root / "file", 1, b"b"))

    assert sorted(image["file"] for image in found) == [b"--", b"-b", b"a-", b"ab"]


def test_what_was_written_twice_is_old_or_new(root: Path) -> None:
    (root / "file").write_bytes(b"0")

    found = left(root, Write(root / "file", 0, b"1"), Write(root / "file", 0, b"2"))

    assert sorted(image["file"] for image in found) == [b"0", b"1", b"2"]


def test_a_write_is_torn_at_the_sectors_of_the_disk(root: Path) -> None:
    (root / "file").write_bytes(bytes(1536))
    torn = [image["file"] for image in left(root, Write(root / "file", 500, b"x" * 1024), times=600)]

    sectors = {(image[:512], image[512:1024], image[1024:]) for image in torn}

    assert len(sectors) > 4
    for number, whole in enumerate((bytes(500) + b"x" * 12, b"x" * 512, b"x" * 500 + bytes(12))):
        assert {parts[number] for parts in sectors} == {whole, bytes(512)}


def test_a_write_under_way_is_there_or_not_and_not_remembered(root: Path) -> None:
    (root / "file").write_bytes(b"old")
    begun = Write(root / "file", 0, b"new", is_synced=True)

    assert len(left(root, begun=begun)) == 2
    assert len(left(root, begun=Sync(root / "file", 0), times=1)) == 1


def test_a_size_is_synced_like_content(root: Path) -> None:
    (root / "file").write_bytes(b"old")
    operations: list[Operation] = [Resize(root / "file", 1), Allocate(root / "file", 4)]

    assert {"file": b"old"} in left(root, *operations)
    assert left(root, *operations, Sync(root / "file", ALWAYS)) == [{"file": b"o\0\0\0"}]


def test_a_new_name_is_there_once_its_directory_was_synced(root: Path) -> None:
    made: list[Operation] = [
        Create(root / "file"),
        Write(root / "file", 0, b"new"),
        Sync(root / "file", ALWAYS),
    ]

    assert sorted(map(str, left(root, *made))) == ["{'file': b'new'}", "{}"]
    assert left(root, *made, Sync(root, ALWAYS)) == [{"file": b"new"}]


def test_a_synced_name_says_nothing_of_the_content(root: Path) -> None:
    made: list[Operation] = [Create(root / "file"), Write(root / "file", 0, b"new"), Sync(root, ALWAYS)]

    assert {"file": b""} in left(root, *made)


def test_creating_what_exists_changes_nothing(root: Path) -> None:
    (root / "file").write_bytes(b"old")

    assert left(root, Create(root / "file")) == [{"file": b"old"}]


def test_names_are_lost_from_some_point_on(root: Path) -> None:
    found = left(root, Create(root / "a"), Create(root / "b"), Remove(root / "a"))

    assert sorted(sorted(image) for image in found) == [[], ["a"], ["a", "b"], ["b"]]


def test_a_rename_happens_at_once(root: Path) -> None:
    (root / "new").mkdir()
    (root / "new" / "file").write_bytes(b"x")

    found = left(root, Rename(root / "new", root / "log"))

    assert sorted(map(list, found)) == [["log/file"], ["new/file"]]


def test_a_renamed_directory_goes_on_under_its_new_name(root: Path) -> None:
    operations: list[Operation] = [
        Create(root / "new", is_directory=True),
        Create(root / "new" / "file"),
        Rename(root / "new", root / "log"),
        Write(root / "log" / "file", 0, b"x"),
        *[Sync(root / "log" / "file", ALWAYS), Sync(root / "log", ALWAYS), Sync(root, ALWAYS)],
    ]

    assert left(root, *operations) == [{"log/file": b"x"}]


def test_sync_all_leaves_one_disk(root: Path) -> None:
    disk = Disk(root)
    disk.apply(Create(root / "folder", is_directory=True))
    disk.apply(Create(root / "folder" / "file"))
    disk.apply(Write(root / "folder" / "file", 0, b"x"))
    assert disk.has_unsynced()

    disk.sync_all()

    assert not disk.has_unsynced()
    disk.write_image(root.with_name("image"), Random(1))
    assert files(root.with_name("image")) == {"folder/file": b"x"}
