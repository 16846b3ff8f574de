"""A small disk that is a real one: an ext4 file system on a loop device. Making it takes root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def loop_disk(directory: Path, size: int) -> Iterator[Path]:
    """Mount a new file system of `size` bytes under a directory. Skips the test where that cannot be done."""
    image, mount = directory / "disk.img", directory / "disk"
    image.touch()
    os.truncate(image, size)
    mount.mkdir()
    # Nothing is kept for root, so that full is full for the broker of this test, too.
    for command in (
        ["mkfs.ext4", "-q", "-m", "0", str(image)],
        ["mount", "-o", "loop", str(image), str(mount)],
    ):
        problem = _run(command)
        if problem:
            pytest.skip(f"NOT TESTED: a disk that is really full: {problem}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)
        image.unlink()


def free_bytes(mount: Path) -> int:
    status = os.statvfs(mount)
    return status.f_bavail * status.f_frsize


def fill(mount: Path) -> Path:
    """Take everything that is free, as another program may; returns the file to remove."""
    ballast = mount / "ballast"
    with ballast.open("wb") as file:
        step = free_bytes(mount)
        while step:
            try:
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, step)
            except OSError:
                step //= 2
    return ballast


def _run(command: list[str]) -> str:
    """Run a command; returns what went wrong, if anything."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is missing"
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if ended.returncode == 0 else f"{' '.join(command)}: {ended.stderr.strip()}"
