"""Where the brokers of a series keep their data, and how much slower its syncs are made."""

import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("slow_sync.c")


class NoCompiler(Exception):
    """What slows the syncs down could not be built."""


@dataclass(frozen=True)
class Disk:
    """A directory that is deleted afterwards."""

    directory: Path
    sync_delay_ms: float = 0.0
    env: dict[str, str] = field(default_factory=dict)
    """For the brokers: a small library is preloaded into them, which delays their syncs."""


def disks(parent: Path | None, delays_ms: Iterable[float]) -> Iterator[Disk]:
    """One after the other, in the same place."""
    with tempfile.TemporaryDirectory(prefix="leveret-bench-", dir=parent) as name:
        directory = Path(name)
        for delay_ms in delays_ms:
            yield Disk(directory, delay_ms, _slow_sync(delay_ms, directory) if delay_ms else {})


def _slow_sync(delay_ms: float, directory: Path) -> dict[str, str]:
    library = directory / "slow_sync.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        raise NoCompiler(f"a sync delay needs a C compiler: {said}") from None
    return {"LD_PRELOAD": str(library), "SLOW_SYNC_US": str(round(delay_ms * 1000))}
