"""Writes of a thread and of the kernel reach the same file, and what cannot be done so is done otherwise."""

import asyncio
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leveret.storage import tail_file
from leveret.storage.tail_file import REFUSALS_MAX, SLOW_MAX, TailFile

PAGE = b"p" * 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tail"
    path.write_bytes(bytes(8 * len(PAGE)))
    return path


def is_page_there(path: Path) -> bool:
    """As the third one."""
    return path.read_bytes()[8192:12288] == PAGE


class FakeAio:
    """Answers when it is told to; `refusals` are why a write does not even begin."""

    def __init__(self, refusals: list[int]) -> None:
        self.refusals = refusals
        self.started: list[tuple[int, int, Callable[[int], None]]] = []
        self.is_closed = False

    def __call__(self, _descriptor: int, _buffer: mmap.mmap) -> "FakeAio":
        return self

    def start(self, size: int, offset: int, done: Callable[[int], None]) -> None:
        if self.refusals:
            code = self.refusals.pop()
            raise OSError(code, os.strerror(code))
        self.started.append((size, offset, done))

    def close(self) -> None:
        self.is_closed = True


def test_a_write_is_there_when_it_returns(path: Path) -> None:
    file = TailFile(path)
    assert file.write(PAGE, 4096) == 4096
    assert path.read_bytes() == bytes(4096) + PAGE + bytes(6 * 4096)
    file.close()


async def test_the_kernel_writes_or_says_that_it_does_not(path: Path) -> None:
    file = TailFile(path)
    file.attend()
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    if file.start(PAGE, 8192, answer.set_result):
        octets = await asyncio.wait_for(answer, 10)
        assert octets in (4096, -errno.EAGAIN)
        assert is_page_there(path) == (octets > 0)
    file.close()


def test_nothing_is_started_where_nobody_attends(path: Path) -> None:
    file = TailFile(path)
    assert not file.start(PAGE, 0, lambda _: None)
    file.close()


def test_a_file_system_without_direct_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_open = os.open

    def refuse_direct(name: Path, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return really_open(name, flags)

    monkeypatch.setattr(tail_file.os, "open", refuse_direct)
    file = TailFile(path)
    file.attend()  # which needs no loop then
    assert not file.start(PAGE, 0, lambda _: None)
    assert file.write(PAGE, 0) == 4096
    file.close()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TailFile(tmp_path / "nothing")


@pytest.fixture
def aio(monkeypatch: pytest.MonkeyPatch) -> FakeAio:
    aio = FakeAio([])
    monkeypatch.setattr(tail_file, "Aio", aio)
    monkeypatch.setattr(tail_file, "_file_system", lambda _: "ext4")
    return aio


@pytest.fixture
def file(path: Path, aio: FakeAio) -> Iterator[TailFile]:
    file = TailFile(path)
    if not file._is_direct:
        pytest.skip(f"no O_DIRECT in {path.parent}")
    file.attend()
    yield file
    file.close()
    assert aio.is_closed


@pytest.mark.parametrize(("code", "is_for_good"), [(errno.EAGAIN, False), (errno.EOPNOTSUPP, True)])
def test_a_kernel_that_does_not_begin(file: TailFile, aio: FakeAio, code: int, *, is_for_good: bool) -> None:
    aio.refusals.append(code)
    assert not file.start(PAGE, 0, lambda _: None)
    assert file.start(PAGE, 4096, lambda _: None) is not is_for_good
    assert [(size, offset) for size, offset, _ in aio.started] == ([] if is_for_good else [(4096, 4096)])


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_do_it_after_all(file: TailFile, aio: FakeAio, code: int) -> None:
    answers: list[int] = []
    assert file.start(PAGE, 0, answers.append)
    aio.started.pop()[2](-code)
    assert answers == [-errno.EAGAIN]
    assert not file.start(PAGE, 0, answers.append)


def test_one_that_would_always_have_to_wait(file: TailFile, aio: FakeAio) -> None:
    answers: list[int] = []
    for octets in (-errno.EAGAIN, 4096, *[-errno.EAGAIN] * REFUSALS_MAX):
        assert file.start(PAGE, 0, answers.append)
        aio.started.pop()[2](octets)
    assert not file.start(PAGE, 0, answers.append)


def test_one_that_is_slow_to_begin(file: TailFile, aio: FakeAio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_file, "SLOW_S", -1.0)
    for _ in range(SLOW_MAX):
        assert file.start(PAGE, 0, lambda _: None)
        aio.started.pop()[2](4096)
    assert not file.start(PAGE, 0, lambda _: None)


@pytest.mark.parametrize("octets", [4096, 512, -errno.EIO, -errno.ENOSPC])
def test_other_answers_are_passed_on(file: TailFile, aio: FakeAio, octets: int) -> None:
    answers: list[int] = []
    assert file.start(PAGE, 0, answers.append)
    aio.started.pop()[2](octets)
    assert answers == [octets]


def test_a_disk_with_larger_blocks(
    file: TailFile, path: Path, aio: FakeAio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it refuses to write directly is written otherwise, from then on."""
    really_write, refusals = os.pwrite, [errno.EINVAL]

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        if refusals:
            raise OSError(refusals.pop(), "Invalid argument")
        assert not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT
        return really_write(descriptor, data, offset)

    monkeypatch.setattr(tail_file.os, "pwrite", pwrite)
    assert file.write(PAGE, 8192) == 4096
    assert is_page_there(path)
    assert not file.start(PAGE, 0, lambda _: None)
    assert aio.started == []


def test_only_where_it_is_known_to_sync(path: Path, aio: FakeAio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_file, "_file_system", lambda _: "btrfs")
    file = TailFile(path)
    file.attend()
    assert not file.start(PAGE, 0, lambda _: None)
    assert aio.started == []
    file.close()


def test_the_file_system_of_a_file() -> None:
    with open("/proc/self/mountinfo") as mounts:
        known = {line.partition(" - ")[2].split()[0] for line in mounts}
    with open("/proc/self/status") as status:
        assert tail_file._file_system(status.fileno()) in {"proc", ""} & (known | {""})


def test_a_kernel_without_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(tail_file, "Aio", refuse)
    file = TailFile(path)
    file.attend()
    assert not file.start(PAGE, 0, lambda _: None)
    file.close()
