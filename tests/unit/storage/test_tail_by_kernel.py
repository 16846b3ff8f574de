"""An append that the kernel writes by itself is there when it is answered; what it does not write the writer
does, and nobody else touches the tail meanwhile.
"""

import asyncio
import errno
from collections.abc import Callable

import pytest
from log_kits import LmdbKit
from log_owner import LogOwner, read_all

from leveret.storage.engine import Ambiguous
from leveret.storage.lmdb import FRAME_BYTES_MAX
from leveret.storage.tail import ALIGN_BYTES
from leveret.storage.tail_file import TailFile


class ByKernel:
    """In the place of what the kernel does: starts, and answers when the loop comes round."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: int | str) -> None:
        """What the next writes come to: octets, an error negated, or that it is `refused`, or `held` back
        until somebody answers. After them all go through.
        """
        self.answers = list(answers)
        self.started = 0
        self.held: list[Callable[[int], None]] = []
        monkeypatch.setattr(TailFile, "attend", lambda _: None)

        def start(file: TailFile, data: bytes, offset: int, done: Callable[[int], None]) -> bool:
            return self.start(file, data, offset, done)

        monkeypatch.setattr(TailFile, "start", start)

    def start(self, file: TailFile, data: bytes, offset: int, done: Callable[[int], None]) -> bool:
        answer = self.answers.pop(0) if self.answers else len(data)
        if answer == "refused":
            return False
        self.started += 1
        if answer == "held":
            file.write(data, offset)
            self.held.append(done)
        else:
            assert isinstance(answer, int)
            if answer > 0:
                file.write(data[:answer].ljust(ALIGN_BYTES, b"?"), offset)
            asyncio.get_running_loop().call_soon(done, answer)
        return True


async def test_the_kernel_writes_what_is_small(kit: LmdbKit, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = ByKernel(monkeypatch)
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    await owner.append(b"1")
    await owner.append(b"2", b"3")
    assert kernel.started == 3
    await owner.append(bytes(FRAME_BYTES_MAX))
    assert kernel.started == 3
    assert len(await read_all(await kit.crash())) == 4


@pytest.mark.parametrize("answer", ["refused", -errno.EAGAIN, -errno.ENOSPC, 512])
async def test_what_the_kernel_does_not_write_the_writer_does(
    kit: LmdbKit, monkeypatch: pytest.MonkeyPatch, answer: int | str
) -> None:
    kernel = ByKernel(monkeypatch, ALIGN_BYTES, answer)
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    for number in range(4):
        await owner.append(b"%d" % number)
    assert not kernel.answers
    assert len(await read_all(await kit.crash())) == 4


async def test_a_disk_that_fails_the_kernel_is_the_end(kit: LmdbKit, monkeypatch: pytest.MonkeyPatch) -> None:
    ByKernel(monkeypatch, -errno.EIO)
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    (answer,) = await engine.append([owner.make(b"1")])
    assert isinstance(answer, Ambiguous)
    with pytest.raises(Ambiguous):
        await engine.stats()


async def test_everything_else_waits_for_the_kernel(kit: LmdbKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail is in one pair of hands: what comes meanwhile finds the frame there."""
    kernel = ByKernel(monkeypatch, "held")
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    first, second = owner.make(b"1"), owner.make(b"2")
    tasks = [
        asyncio.create_task(one)
        for one in (engine.append([first]), engine.append([second]), engine.meta_cas(b"key", b"value", None))
    ]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks)
    kernel.held.pop()(ALIGN_BYTES)
    assert (await tasks[0], await tasks[1]) == ([1], [2])
    assert await tasks[2] is not None
    assert await read_all(await kit.crash()) == {1: first.blob, 2: second.blob}


@pytest.mark.parametrize("answer", [ALIGN_BYTES, -errno.EAGAIN])
@pytest.mark.parametrize("leaves", [False, True])
async def test_those_who_wait_get_their_turn_in_order(
    kit: LmdbKit, monkeypatch: pytest.MonkeyPatch, answer: int, *, leaves: bool
) -> None:
    """Before anybody who comes later, and after the frame's own append, whoever writes that in the end."""
    kernel = ByKernel(monkeypatch, "held")
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    items = [owner.make(b"%d" % number) for number in range(4)]
    tasks = [asyncio.create_task(engine.append([item])) for item in items[:3]]
    await asyncio.sleep(0)
    if leaves:
        tasks[0].cancel()
        await asyncio.sleep(0)
    kernel.held.pop()(answer)
    tasks.append(asyncio.create_task(engine.append([items[3]])))
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[1:] == [[2], [3], [4]]
    assert kernel.started == 1
    assert list((await read_all(await kit.crash())).values()) == [item.blob for item in items]


async def test_who_appends_all_the_time_holds_nobody_up(kit: LmdbKit) -> None:
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    overtaken = 0

    async def append() -> None:
        nonlocal overtaken
        while not asking.done():
            await owner.append(b"x")
            overtaken += 1

    asking = asyncio.create_task(engine.meta_cas(b"key", b"value", None))
    await append()
    assert overtaken <= 3
    for number in range(5):
        overtaken = 0
        asking = asyncio.create_task(engine.meta_cas(b"%d" % number, b"value", None))
        await append()
        assert overtaken <= 3


async def test_closing_waits_for_the_kernel(kit: LmdbKit, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = ByKernel(monkeypatch, "held")
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    item = owner.make(b"1")
    appending = asyncio.create_task(engine.append([item]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    kernel.held.pop()(ALIGN_BYTES)
    assert await appending == [1]
    await closing
    (kit.path / "log" / "tail").unlink()
    assert await read_all(await kit.open()) == {1: item.blob}


async def test_a_caller_that_goes_away_takes_nothing_back(
    kit: LmdbKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = ByKernel(monkeypatch, "held")
    engine = await kit.open()
    owner = await LogOwner.acquire(engine)
    first, second = owner.make(b"1"), owner.make(b"2")
    task = asyncio.create_task(engine.append([first]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    closing = asyncio.create_task(engine.append([second]))
    await asyncio.sleep(0)
    kernel.held.pop()(ALIGN_BYTES)
    assert await closing == [2]
    assert await read_all(await kit.crash()) == {1: first.blob, 2: second.blob}
