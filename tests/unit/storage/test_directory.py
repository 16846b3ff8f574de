import os
import subprocess
import sys
from pathlib import Path

import pytest

from leveret.storage.directory import DataDirectory, DirectoryInUse, DirectoryUnusable
from leveret.storage.lmdb_file import network_file_system


def test_it_is_made_with_its_parents_and_nobody_else_may_look(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path / "a" / "b")
    assert directory.log == tmp_path / "a" / "b" / "log"
    assert directory.spill == tmp_path / "a" / "b" / "spill"
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "b" / "lock").stat().st_mode & 0o777 == 0o600
    directory.close()


def test_the_second_opener_is_told_who_has_it(tmp_path: Path) -> None:
    first = DataDirectory.open(tmp_path)
    with pytest.raises(DirectoryInUse, match=f"in use by the process with pid {os.getpid()}"):
        DataDirectory.open(tmp_path)
    first.close()
    first.close()
    DataDirectory.open(tmp_path).close()


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from leveret.storage.directory import DataDirectory\n"
        "DataDirectory.open(Path(sys.argv[1])); print(os.getpid(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        with pytest.raises(DirectoryInUse, match=f"pid {pid}"):
            DataDirectory.open(tmp_path)
        process.kill()
    DataDirectory.open(tmp_path).close()


def test_a_lock_without_a_pid_is_still_a_lock(tmp_path: Path) -> None:
    first = DataDirectory.open(tmp_path)
    (tmp_path / "lock").write_text("")
    with pytest.raises(DirectoryInUse, match="pid unknown"):
        DataDirectory.open(tmp_path)
    first.close()


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DirectoryUnusable, match="not a Leveret data directory: it holds 'photos'"):
        DataDirectory.open(tmp_path)
    assert os.listdir(tmp_path) == ["photos"]


def test_what_is_spilled_there_does_not_make_it_foreign(tmp_path: Path) -> None:
    directory = DataDirectory.open(tmp_path)
    directory.spill.mkdir()
    directory.close()
    DataDirectory.open(tmp_path).close()


def test_the_root_of_a_volume_is_not_foreign(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    DataDirectory.open(tmp_path).close()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DirectoryUnusable, match="file is not a directory"):
        DataDirectory.open(tmp_path / "file")
    with pytest.raises(DirectoryUnusable, match="Not a directory"):
        DataDirectory.open(tmp_path / "file" / "below")


def test_what_must_exist_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DirectoryUnusable, match="does not exist"):
        DataDirectory.open(tmp_path / "missing", create=False)
    assert not (tmp_path / "missing").exists()


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()  # refused to root, too
    with pytest.raises(DirectoryUnusable, match="cannot be used as the data directory: Is a directory"):
        DataDirectory.open(tmp_path)


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 22 0:45 / /data rw,relatime shared:1 - nfs4 server:/export rw,vers=4.2
31 22 0:46 / /tmp rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("device", "name"), [((254, 0), None), ((0, 45), "nfs4"), ((0, 46), None), ((8, 1), None)]
)
def test_network_file_systems_are_known_by_their_device(device: tuple[int, int], name: str | None) -> None:
    assert network_file_system(MOUNTS, os.makedev(*device)) == name


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path.stat().st_dev
    mounts = f"30 22 {os.major(device)}:{os.minor(device)} / /data rw - nfs server:/export rw\n"
    monkeypatch.setattr("leveret.storage.directory._mountinfo", lambda: mounts)
    with pytest.raises(DirectoryUnusable, match=r"lies on a network file system \(nfs\)"):
        DataDirectory.open(tmp_path)
