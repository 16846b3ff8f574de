"""The data directory: who may use it, and where things lie in it.

    DIR/lock      flock held by the one process that uses the directory; contains its pid
    DIR/log/      the LMDB store
    DIR/log.new/  a store being made or compacted; whatever is found there is discarded
    DIR/spill/    transient messages of long backlogs (`spill.py`); discarded at the next start

An engine (or the checker) holds one `DataDirectory` while it uses the store. The lock dies with the process.
"""

import fcntl
import os
import shutil
from pathlib import Path

from .engine import Unavailable
from .lmdb_file import network_file_system, sync_path

DIRECTORY_MODE = 0o700  # message bodies are nobody else's business
FILE_MODE = 0o600
_ALWAYS_THERE = {"lost+found"}  # in the root of an ext4 volume mounted as the data directory


class DirectoryUnusable(Unavailable):
    """The path cannot serve as a data directory; the message says why and what to do."""


class DirectoryInUse(Unavailable):
    """Another process, or another engine of this one, has the directory."""


class DataDirectory:
    """A locked data directory."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `DataDirectory.open`."""
        self.path = path
        self.log = path / "log"
        self.new_log = path / "log.new"
        self.spill = path / "spill"
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> "DataDirectory":
        """Lock the directory, after making it where it does not exist.

        Raises:
            DirectoryUnusable: the path is something else, foreign, on a network file system, or not
            permitted. DirectoryInUse: somebody has the lock.
        """
        path = path.absolute()
        try:
            if create:
                _make(path)
            _require_ours(path)
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except FileNotFoundError:
            raise DirectoryUnusable(f"{path} does not exist") from None
        except OSError as error:
            raise DirectoryUnusable(
                f"{path} cannot be used as the data directory: {error.strerror}"
            ) from error
        try:
            _lock(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor)

    def make_new_log(self) -> None:
        """Make `new_log` an empty directory."""
        self.discard_new_log()
        self.new_log.mkdir(DIRECTORY_MODE)

    def discard_new_log(self) -> None:
        shutil.rmtree(self.new_log, ignore_errors=True)

    def close(self) -> None:
        """Give up the lock. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _make(path: Path) -> None:
    """Make the directory and its parents, each durably entered in the one above."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(DIRECTORY_MODE)
        sync_path(folder.parent)


def _require_ours(path: Path) -> None:
    """Refuse what must not become, or is not, a data directory."""
    if not path.is_dir():
        if path.exists():
            raise DirectoryUnusable(f"{path} is not a directory")
        raise FileNotFoundError(path)
    names = set(os.listdir(path)) - _ALWAYS_THERE
    if names and not names & {"lock", "log"}:
        raise DirectoryUnusable(
            f"{path} is not a Leveret data directory: it holds {min(names)!r}; name a new or empty directory"
        )
    file_system = network_file_system(_mountinfo(), path.stat().st_dev)
    if file_system is not None:
        raise DirectoryUnusable(
            f"{path} lies on a network file system ({file_system}), where neither locks nor fsync are certain"
        )


def _mountinfo() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text()
    except OSError:
        return ""  # not Linux, or /proc is hidden: nothing to go by


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise DirectoryInUse(f"{path} is in use by the process with pid {pid}") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
