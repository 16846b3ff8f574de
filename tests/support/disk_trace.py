"""What a process does to the files of a data directory, recorded by strace.

`command` goes before the process's own command line; `read` makes operations of `disk_model.py` of what
strace wrote. A call that no rule here knows is an error, and so is memory that is written to a file behind
strace's back: a recording holds everything or nothing.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from disk_model import Allocate, Create, Operation, Remove, Rename, Resize, Sync, Write

_WRITES = ("write", "writev", "pwrite64", "pwritev")
_SYNCS = ("fsync", "fdatasync")
_MODELLED = (
    *(*_WRITES, *_SYNCS, "openat", "close", "lseek", "mmap", "fallocate", "ftruncate"),
    *("rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"),
)
_NOT_MODELLED = (
    *("open", "creat", "pwritev2", "truncate", "link", "linkat", "symlink", "symlinkat", "msync", "sync"),
    *("syncfs", "sync_file_range", "sendfile", "copy_file_range", "splice", "dup", "dup2", "dup3"),
)
MAPPED = "lock.mdb"
"""LMDB's table of readers: shared memory that means nothing after a restart."""

_STRING_MAX_BYTES = 4 * 1024 * 1024
_END_TIMEOUT_S = 30


class Step(NamedTuple):
    """An operation, and when it began (by the wall clock)."""

    moment: float
    operation: Operation


def command(trace: Path, data_dir: Path) -> list[str]:
    """A prefix that has a command's process recorded, without becoming its parent.

    strace looks only at files that it is told of. If one is missing here, the disk that the recording leads
    to is not the real one.
    """
    logs = (data_dir / "log", data_dir / "log.new")
    paths = [data_dir.parent, data_dir, data_dir / "lock", *logs]
    paths += [log / name for log in logs for name in ("data.mdb", "tail", "tail.new", MAPPED)]
    calls = ",".join(_MODELLED + _NOT_MODELLED)
    watched = [word for path in paths for word in ("-P", str(path))]
    options = ["-D", "-f", "-q", "-ttt", "-xx", "--seccomp-bpf", "-s", str(_STRING_MAX_BYTES), "-e", calls]
    return ["strace", *options, *watched, "-o", str(trace)]


def wait_for_end(trace: Path, pid: int) -> None:
    """Wait until strace wrote down that the process ended, and with it all that it did."""
    ended = re.compile(rf"^{pid} .*\+\+\+ (exited|killed)".encode(), re.MULTILINE)
    deadline = time.monotonic() + _END_TIMEOUT_S
    while time.monotonic() < deadline:
        with trace.open("rb") as file:
            file.seek(max(0, trace.stat().st_size - 4096))
            if ended.search(file.read()):
                return
        time.sleep(0.01)
    raise TimeoutError(f"{trace} does not end")


def read(trace: Path) -> list[Step]:
    """The operations, in the order in which they ended."""
    with trace.open() as lines:
        return list(_Reader().steps(lines))


@dataclass(slots=True)
class _Descriptor:
    path: Path
    is_synced: bool
    offset: int = 0


@dataclass(slots=True)
class _Call:
    moment: float
    name: str
    arguments: str
    began: int
    result: int = 0

    @property
    def descriptor(self) -> int:
        return int(self.arguments.split(",", maxsplit=1)[0])

    @property
    def numbers(self) -> list[str]:
        """The arguments of a call that has no strings."""
        return self.arguments.split(", ")

    @property
    def data(self) -> bytes:
        """What a write wrote."""
        data = _unhex("".join(self.arguments.split('"')[1::2]))
        if len(data) < self.result:
            raise ValueError(f"strace cut {self.result} bytes to {len(data)}")
        return data[: self.result]


_CALL = re.compile(r"(\d+) +([\d.]+) (?:(\w+)\(|<\.\.\. (\w+) resumed>)")
_UNFINISHED = " <unfinished ...>"
_NO_CALL = re.compile(r"\d+ +[\d.]+ (---|\+\+\+)")  # a signal, or the end
_PATH = re.compile(r'(?:(AT_FDCWD|\d+), )?"((?:\\x[0-9a-f]{2})*)"')


@dataclass(slots=True)
class _Reader:
    """Reads lines. A call during which another thread made one comes in two parts."""

    _descriptors: dict[int, _Descriptor] = field(default_factory=dict)
    _unfinished: dict[str, _Call] = field(default_factory=dict)
    _ended: int = 0  # operations

    def steps(self, lines: Iterator[str]) -> Iterator[Step]:
        for line in lines:
            call = self._call(line)
            if call is None or call.result < 0:
                continue
            for operation in self._operations(call):
                self._ended += 1
                yield Step(call.moment, operation)

    def _call(self, line: str) -> _Call | None:
        """The call that this line ends."""
        head = _CALL.match(line)
        if head is None:
            if not _NO_CALL.match(line):
                raise ValueError(f"strace wrote what cannot be read: {line[:200]}")
            return None
        thread, moment, name, resumed = head.groups()
        rest = line[head.end() :].rstrip()
        is_unfinished = rest.endswith(_UNFINISHED)
        arguments, _, result = rest.rpartition(_UNFINISHED if is_unfinished else " = ")
        call = self._unfinished.pop(thread) if resumed else _Call(float(moment), name, "", self._ended)
        call.arguments += arguments.rstrip().removesuffix(")")
        if name == "close":  # from where it begins, the number may become another file's
            self._descriptors.pop(call.descriptor, None)
        if is_unfinished:
            self._unfinished[thread] = call
            return None
        call.result = -1 if result == "?" else int(result.split()[0], 0)
        return call

    def _operations(self, call: _Call) -> Iterator[Operation]:
        if call.name == "openat":
            yield from self._open(call)
        elif call.name in ("mkdir", "mkdirat"):
            yield Create(self._paths(call)[0], is_directory=True)
        elif call.name in ("unlink", "unlinkat", "rmdir"):
            yield Remove(self._paths(call)[0])
        elif call.name in ("rename", "renameat", "renameat2"):
            yield Rename(*self._paths(call))
        elif call.name == "mmap":
            self._check_mapping(call)
        elif call.name == "close":
            return
        elif call.name not in _MODELLED:
            raise ValueError(f"{call.name} is not modelled: {call.arguments[:200]}")
        elif call.descriptor in self._descriptors:
            yield from self._use(call, self._descriptors[call.descriptor])

    def _open(self, call: _Call) -> Iterator[Operation]:
        (path,) = self._paths(call)
        self._descriptors[call.result] = _Descriptor(path, "O_DSYNC" in call.arguments)
        if "O_SYNC" in call.arguments or "O_APPEND" in call.arguments:
            raise ValueError(f"not modelled: {call.arguments}")
        if "O_CREAT" in call.arguments:
            yield Create(path)
        if "O_TRUNC" in call.arguments:
            yield Resize(path, 0)

    def _use(self, call: _Call, descriptor: _Descriptor) -> Iterator[Operation]:
        path = descriptor.path
        if call.name == "lseek":
            descriptor.offset = call.result
        elif call.name in _SYNCS:
            yield Sync(path, call.began)
        elif call.name == "ftruncate":
            yield Resize(path, int(call.numbers[1]))
        elif call.name == "fallocate":
            _, mode, offset, length = map(int, call.numbers)
            if mode != 0:
                raise ValueError(f"fallocate's mode {mode} is not modelled")
            yield Allocate(path, offset + length)
        elif call.name in _WRITES:
            offset = int(call.arguments.rsplit(",", 1)[1]) if call.name[0] == "p" else descriptor.offset
            if call.name[0] != "p":
                descriptor.offset += call.result
            yield Write(path, offset, call.data, descriptor.is_synced)

    def _check_mapping(self, call: _Call) -> None:
        _, _, protection, flags, number, *_ = call.numbers
        descriptor = self._descriptors.get(int(number))
        writes = "PROT_WRITE" in protection and "MAP_SHARED" in flags
        if writes and descriptor is not None and descriptor.path.name != MAPPED:
            raise ValueError(f"{descriptor.path} is written through memory, where strace sees nothing")

    def _paths(self, call: _Call) -> list[Path]:
        found = []
        for directory, name in _PATH.findall(call.arguments):
            path = Path(_unhex(name).decode())
            if directory.isdigit():
                path = self._descriptors[int(directory)].path / path
            found.append(path)
        return found


def _unhex(text: str) -> bytes:
    """What strace writes as \\x68\\x69."""
    return bytes.fromhex(text.replace("\\x", ""))
