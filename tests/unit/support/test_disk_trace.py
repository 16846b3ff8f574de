"""What strace writes becomes operations; what is not understood is an error."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import disk_trace
import pytest
from disk_model import Allocate, Create, Disk, Operation, Remove, Rename, Resize, Sync, Write

FILE = Path("/d/file")


def hexed(text: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


OPEN = f"1 10.5 openat(AT_FDCWD, {hexed('/d/file')}, O_RDWR|O_CREAT, 0600) = 7"


def read(path: Path, *lines: str) -> list[Operation]:
    """The operations of a trace with these lines."""
    trace = path / "trace"
    trace.write_text("".join(line + "\n" for line in lines))
    return [step.operation for step in disk_trace.read(trace)]


def test_writes_know_where_they_go(tmp_path: Path) -> None:
    operations = read(
        tmp_path,
        OPEN,
        f"1 10.6 pwrite64(7, {hexed('ab')}, 2, 4096) = 2",
        f"1 10.7 write(7, {hexed('cd')}, 2) = 2",
        f"1 10.8 write(7, {hexed('efg')}, 3)     = 1",
        "1 10.9 lseek(7, 100, SEEK_SET) = 100",
        f"1 11.0 writev(7, [{{iov_base={hexed('hi')}}}, {{iov_base={hexed('j')}, iov_len=1}}], 2) = 3",
    )

    assert operations == [
        *[Create(FILE), Write(FILE, 4096, b"ab"), Write(FILE, 0, b"cd"), Write(FILE, 2, b"e")],
        Write(FILE, 100, b"hij"),
    ]


def test_synced_descriptors_and_sizes(tmp_path: Path) -> None:
    operations = read(
        tmp_path,
        f"1 10.5 openat(AT_FDCWD, {hexed('/d/file')}, O_WRONLY|O_DSYNC|O_TRUNC) = 8",
        f"1 10.6 pwrite64(8, {hexed('m')}, 1, 32) = 1",
        "1 10.7 ftruncate(8, 640) = 0",
        "1 10.8 fallocate(8, 0, 640, 360) = 0",
        "1 10.9 fdatasync(8) = 0",
    )

    written = Write(FILE, 32, b"m", is_synced=True)
    assert operations == [Resize(FILE, 0), written, Resize(FILE, 640), Allocate(FILE, 1000), Sync(FILE, 4)]


def test_names(tmp_path: Path) -> None:
    operations = read(
        tmp_path,
        f"1 10.1 mkdir({hexed('/d/new')}, 0700) = 0",
        f"1 10.2 mkdir({hexed('/d/new')}, 0600) = -1 EEXIST (File exists)",
        f"1 10.3 openat(AT_FDCWD, {hexed('/d/new')}, O_RDONLY|O_CLOEXEC) = 5",
        f"1 10.4 unlinkat(5, {hexed('lock')}, 0) = 0",
        "1 10.5 fsync(5) = 0",
        f"1 10.6 rename({hexed('/d/new')}, {hexed('/d/log')}) = 0",
    )

    assert operations == [
        *[Create(Path("/d/new"), is_directory=True), Remove(Path("/d/new/lock")), Sync(Path("/d/new"), 2)],
        Rename(Path("/d/new"), Path("/d/log")),
    ]


def test_a_sync_in_two_parts_covers_what_ended_before_it_began(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text(
        f"{OPEN}\n"
        "2 10.6 fdatasync(7 <unfinished ...>\n"
        f"1 10.7 pwrite64(7, {hexed('a')}, 1, 0) = 1\n"
        "2 10.8 <... fdatasync resumed>) = 0\n"
    )

    assert disk_trace.read(trace) == [
        (10.5, Create(FILE)),
        (10.7, Write(FILE, 0, b"a")),
        (10.6, Sync(FILE, 1)),
    ]


def test_a_number_may_be_used_again_while_its_close_is_under_way(tmp_path: Path) -> None:
    operations = read(
        tmp_path,
        OPEN,
        "2 10.6 close(7 <unfinished ...>",
        f"1 10.7 openat(AT_FDCWD, {hexed('/d/other')}, O_RDWR) = 7",
        "2 10.8 <... close resumed>) = 0",
        f"1 10.9 write(7, {hexed('a')}, 1) = 1",
        "1 11.0 close(7) = 0",
        f"1 11.1 write(7, {hexed('a socket')}, 8) = 8",
        "1 11.2 --- SIGTERM {si_signo=SIGTERM} ---",
        "1 11.3 close(3) = ?",
        "1 11.4 +++ exited with 0 +++",
    )

    assert operations == [Create(FILE), Write(Path("/d/other"), 0, b"a")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"1 10.6 link({hexed('/d/file')}, {hexed('/d/b')}) = 0", "link is not modelled"),
        ("1 10.6 mmap(NULL, 640, PROT_READ|PROT_WRITE, MAP_SHARED, 7, 0) = 0x7f00", "through memory"),
        ("1 10.6 fallocate(7, FALLOC_FL_KEEP_SIZE, 0, 10) = 0", "FALLOC_FL_KEEP_SIZE"),
        (f"1 10.6 pwrite64(7, {hexed('ab')}..., 200, 0) = 200", "cut 200 bytes to 2"),
        ("strace: Process 1 attached", "cannot be read"),
    ],
)
def test_what_is_not_understood_is_an_error(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, OPEN, line)


def test_reading_maps_and_the_table_of_readers_are_fine(tmp_path: Path) -> None:
    operations = read(
        tmp_path,
        f"1 10.4 openat(AT_FDCWD, {hexed('/d/log/lock.mdb')}, O_RDWR) = 9",
        OPEN,
        "1 10.6 mmap(NULL, 640, PROT_READ|PROT_WRITE, MAP_SHARED, 9, 0) = 0x7f00",
        "1 10.7 mmap(NULL, 640, PROT_READ, MAP_SHARED, 7, 0) = 0x7f00",
    )

    assert operations == [Create(FILE)]


PROGRAM = """
import os, sys
data = sys.argv[1]
os.mkdir(data)
with open(data + "/lock", "wb") as file:
    file.write(b"x" * 100_000)
    file.flush()
    file.truncate(90_000)
os.mkdir(data + "/log.new")
descriptor = os.open(data + "/log.new/data.mdb", os.O_RDWR | os.O_CREAT)
os.posix_fallocate(descriptor, 0, 5000)
os.writev(descriptor, [b"a" * 3000, b"b" * 3000])
os.close(descriptor)
os.rename(data + "/log.new", data + "/log")
os.remove(data + "/lock")
"""


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="NOT TESTED: recording needs strace, which is missing"
)
def test_a_recording_leads_to_the_files_that_are_there(tmp_path: Path) -> None:
    root, trace = tmp_path / "root", tmp_path / "trace"
    root.mkdir()
    disk = Disk(root)
    command = disk_trace.command(trace, root / "data")
    process = subprocess.Popen([*command, sys.executable, "-c", PROGRAM, str(root / "data")], env=os.environ)
    assert process.wait(30) == 0

    disk_trace.wait_for_end(trace, process.pid)
    for step in disk_trace.read(trace):
        disk.apply(step.operation)

    disk.sync_all()
    disk.write_image(tmp_path / "image", Random(1))
    assert (tmp_path / "image" / "data" / "log" / "data.mdb").read_bytes() == b"a" * 3000 + b"b" * 3000
    assert [path.name for path in (tmp_path / "image" / "data").iterdir()] == ["log"]
