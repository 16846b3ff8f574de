"""The kernel writes by itself, one write at a time, and says when it has."""

import asyncio
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from leveret.storage.aio import Aio

PAGE_BYTES = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * PAGE_BYTES))
    return path


@pytest.fixture
def descriptor(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    except OSError as error:
        pytest.skip(f"no O_DIRECT in {path.parent}: {error}")
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    yield descriptor
    os.close(descriptor)


def page(path: Path, number: int) -> bytes:
    """What others read there."""
    return path.read_bytes()[number * PAGE_BYTES :][:PAGE_BYTES]


async def written(aio: Aio, size: int, offset: int) -> int:
    """What the kernel answers."""
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    try:
        aio.start(size, offset, answer.set_result)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            pytest.skip("this file system cannot write without waiting")
        raise
    return await asyncio.wait_for(answer, 10)


async def test_what_it_says_is_written_is_there(path: Path, descriptor: int) -> None:
    buffer = mmap.mmap(-1, 2 * PAGE_BYTES)
    aio = Aio(descriptor, buffer)
    for number in range(3):
        buffer[:] = bytes([number + 1]) * 2 * PAGE_BYTES
        octets = await written(aio, PAGE_BYTES, (number + 1) * PAGE_BYTES)
        assert octets in (PAGE_BYTES, -errno.EAGAIN)
        assert page(path, number + 1) == bytes([number + 1 if octets > 0 else 0]) * PAGE_BYTES
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    assert page(path, 0) == bytes(PAGE_BYTES)
    aio.close()


async def test_what_fails_is_said(descriptor: int) -> None:
    buffer = mmap.mmap(-1, 2 * PAGE_BYTES)
    aio = Aio(descriptor, buffer)
    with pytest.raises(OSError, match="Invalid argument"):
        raise_if_negative(await written(aio, 100, 0))  # no multiple of a sector
    aio.close()
    with pytest.raises(OSError, match="Invalid argument"):  # the kernel knows the context no more
        aio.start(PAGE_BYTES, 0, lambda _: None)


def raise_if_negative(octets: int) -> None:
    """As most file systems say it when the write ends, and some when it begins."""
    if octets < 0:
        raise OSError(-octets, os.strerror(-octets))


async def test_closing_waits_for_what_is_under_way(path: Path, descriptor: int) -> None:
    buffer = mmap.mmap(-1, PAGE_BYTES)
    buffer[:] = b"x" * PAGE_BYTES
    aio = Aio(descriptor, buffer)
    answers: list[int] = []
    try:
        aio.start(PAGE_BYTES, 0, answers.append)
    except OSError:
        pytest.skip("this file system cannot write without waiting")
    aio.close()
    assert page(path, 0) in (b"x" * PAGE_BYTES, bytes(PAGE_BYTES))
    assert answers == []


async def test_a_machine_without_it(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "vax")
    with pytest.raises(OSError, match="not implemented"):
        Aio(descriptor, mmap.mmap(-1, PAGE_BYTES))
