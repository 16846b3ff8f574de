"""One kit per engine: how the contract suite makes, reopens and crashes engines, and checks their stores."""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path

from leveret.storage import failpoints
from leveret.storage.check import check_directory
from leveret.storage.engine import LogEngine
from leveret.storage.lmdb import LmdbEngine
from leveret.storage.memory import MemoryEngine
from leveret.storage.simulated import Faults, Keep, SimulatedDisk, SimulatedEngine


class LogKit(ABC):
    """Makes engines of one kind on one store; `finish` closes them all."""

    small_bytes = 4 * 1024 * 1024  # of a store opened `small`

    def __init__(self) -> None:
        self.engines: list[LogEngine] = []

    async def open(self, *, small: bool = False) -> LogEngine:
        engine = self.make(small=small)
        self.engines.append(engine)
        await engine.open()
        return engine

    async def reopen(self, engine: LogEngine) -> LogEngine:
        """Close an engine and open another one on its store."""
        await engine.close()
        return await self.open()

    async def finish(self) -> None:
        for engine in self.engines:
            await engine.close()

    @abstractmethod
    def make(self, *, small: bool) -> LogEngine: ...


class DurableKit(LogKit):
    """Of engines that find everything again: `reopen` does, and so does `crash`."""

    async def crash(self) -> LogEngine:
        """Lose the process, then open an engine on what is left."""
        self.lose_process()
        return await self.open()

    @abstractmethod
    def lose_process(self) -> None: ...


class MemoryKit(LogKit):
    def make(self, *, small: bool) -> LogEngine:
        return MemoryEngine(capacity_bytes=self.small_bytes if small else 2**62)


class SimulatedKit(DurableKit):
    acknowledge_early = False

    def __init__(self, seed: int = 1, keep: Keep = Keep.SOME) -> None:
        super().__init__()
        self.seed = seed
        self.keep = keep
        self.disk: SimulatedDisk | None = None

    def make(self, *, small: bool) -> LogEngine:
        if self.disk is None:
            self.disk = SimulatedDisk(self.seed, capacity_bytes=self.small_bytes if small else 2**62)
        return SimulatedEngine(self.disk, Faults(), acknowledge_early=self.acknowledge_early)

    def lose_process(self) -> None:
        assert self.disk is not None
        self.disk.crash(self.keep)


class ForgetfulKit(SimulatedKit):
    """The negative control: acknowledges before it is durable."""

    acknowledge_early = True

    def __init__(self) -> None:
        super().__init__(keep=Keep.NOTHING)


class LmdbKit(DurableKit):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._root = path
        self.path = path / "data-0"

    def make(self, *, small: bool) -> LogEngine:
        return LmdbEngine(self.path, map_bytes=self.small_bytes if small else 2**30)

    def lose_process(self) -> None:
        """Go on with a copy of the files as they are now, which is what a killed process leaves."""
        dead, self.path = self.path, self._root / f"data-{len(self.engines)}"
        shutil.copytree(dead, self.path)

    def make_next_append_ambiguous(self, *, durable: bool) -> None:
        """The next append answers Ambiguous, and is or is not durable."""
        place = "after_commit_before_confirm" if durable else "commit"
        failpoints.armed = failpoints.parse(f"{place}=error@1")

    async def finish(self) -> None:
        failpoints.armed = None
        await super().finish()
        for store in sorted(self._root.glob("data-*")):
            report = check_directory(store)
            assert report.is_sound, report.findings
