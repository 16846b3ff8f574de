"""Power cuts, played on a recording of what a real process wrote.

The victim runs under strace, which yields every write and sync of its data file in order, with what the
victim said meanwhile. A power cut is a point in that recording: what a sync (or an O_DSYNC write) covered is
on the disk, of the rest any part may be, torn at sectors. Each such disk image is given to a real recovery in
a process of its own, and what it finds is held against what the victim had been answered until then.

Not covered: damage by the file system itself, drives that lie about their caches.
"""

import json
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
SYSCALLS = "openat,close,lseek,write,writev,pwrite64,pwritev,fdatasync,fsync,fallocate,ftruncate"


@dataclass(slots=True)
class Write:
    """Bytes on their way to the disk."""

    offset: int
    data: bytes
    is_synced: bool  # written through an O_DSYNC descriptor


@dataclass(slots=True)
class Sync:
    """Everything written before is on the disk."""


@dataclass(slots=True)
class Said:
    """A line of the victim's."""

    words: list[str]


Event = Write | Sync | Said


@dataclass(slots=True)
class Promise:
    """What the victim had made and was answered at one point."""

    made: dict[int, str] = field(default_factory=dict)  # position -> chain hash
    appended: set[int] = field(default_factory=set)
    maybe_dropped: set[int] = field(default_factory=set)
    checkpoint: int = 0

    def hear(self, words: list[str]) -> None:
        kind, values = words[0], words[1:]
        if kind == "make":
            self.made[int(values[0])] = values[1]
        elif kind == "appended":
            self.appended.add(int(values[0]))
        elif kind == "checkpointed":
            self.checkpoint = int(values[0])
        elif kind == "dropping":
            self.maybe_dropped.update(map(int, values))

    def verdict(self, found: "Found") -> str:
        """ "sound", or what is wrong with what recovery found."""
        if found.error is not None:
            return f"unreadable: {found.error}"
        for position, chain in found.blobs.items():
            if self.made.get(position) != chain:
                return f"position {position} holds what was never written there"
        lost = self.appended - self.maybe_dropped - set(found.blobs)
        if lost:
            return f"lost: {sorted(lost)}"
        if found.checkpoint < self.checkpoint:
            return f"lost: the checkpoint at {self.checkpoint}"
        return f"unsound: {found.findings[0]}" if found.findings else "sound"


@dataclass(slots=True)
class Found:
    """What recovery made of an image."""

    error: str | None
    blobs: dict[int, str]
    checkpoint: int
    findings: list[str]


def record(victim: list[str], data: Path, trace: Path) -> list[Event]:
    """Run a command under strace and return what happened to the data file."""
    command = [
        "strace",
        "-f",
        "-qq",
        "-xx",
        "-s",
        "2000000",
        "-e",
        f"trace={SYSCALLS}",
        "-o",
        str(trace),
        *victim,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    return list(_Parser(data).parse(trace))


class _Parser:
    """Reads strace's output.

    Calls that another thread interrupted come in two parts; the second one counts.
    """

    _CALL = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
    _UNFINISHED = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
    _RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)")
    _STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')

    def __init__(self, data: Path) -> None:
        self._data = str(data)
        self._is_synced: dict[int, bool] = {}  # descriptors of the data file -> O_DSYNC
        self._offsets: dict[int, int] = {}
        self._said = b""

    def parse(self, trace: Path) -> Iterator[Event]:
        pending: dict[tuple[str, str], str] = {}
        with trace.open() as lines:
            for line in lines:
                if unfinished := self._UNFINISHED.match(line):
                    pending[unfinished[1], unfinished[2]] = unfinished[3]
                elif resumed := self._RESUMED.match(line):
                    arguments = pending.pop((resumed[1], resumed[2])) + resumed[3]
                    yield from self._call(resumed[2], arguments, int(resumed[4]))
                elif call := self._CALL.match(line):
                    yield from self._call(call[2], call[3], int(call[4]))

    def _call(self, name: str, arguments: str, result: int) -> Iterator[Event]:
        if result < 0:
            return
        if name == "openat":
            if self._strings(arguments)[0].decode() == self._data:
                self._is_synced[result] = "O_DSYNC" in arguments
                self._offsets[result] = 0
            return
        descriptor = int(arguments.split(",", maxsplit=1)[0])
        if name == "write" and descriptor == 1:
            yield from self._say(self._strings(arguments)[0])
        if descriptor not in self._is_synced:
            return
        if name == "close":
            del self._is_synced[descriptor]
        elif name == "lseek":
            self._offsets[descriptor] = result
        elif name in {"fdatasync", "fsync"}:
            yield Sync()
        elif name in {"write", "writev", "pwrite64", "pwritev"}:
            data = b"".join(self._strings(arguments))
            assert len(data) == result, "strace cut the bytes off"
            offset = int(arguments.rsplit(",", 1)[1]) if name[0] == "p" else self._offsets[descriptor]
            if name[0] != "p":
                self._offsets[descriptor] += result
            yield Write(offset, data, self._is_synced[descriptor])
        # fallocate only adds zeros behind the pages in use, and ftruncate is never called.
        assert name != "ftruncate"

    def _say(self, text: bytes) -> Iterator[Said]:
        self._said += text
        while b"\n" in self._said:
            line, self._said = self._said.split(b"\n", 1)
            yield Said(line.decode().split())

    def _strings(self, arguments: str) -> list[bytes]:
        return [bytes.fromhex(found.replace("\\x", "")) for found in self._STRING.findall(arguments)]


class PowerCuts:
    """Makes images out of a recording."""

    def __init__(self, before: bytes, events: list[Event], seed: int) -> None:
        """`before` is the data file as it was when the recording began."""
        self._before = before
        self._events = events
        self._random = random.Random(seed)

    def images(self, count: int) -> Iterator[tuple[bytes, Promise]]:
        """So many disk images, and what had been promised by then."""
        points = sorted(self._random.randrange(len(self._events)) for _ in range(count))
        disk, unsynced, promise = bytearray(self._before), list[Write](), Promise()
        events = iter(enumerate(self._events))
        for point in points:
            for at, event in events:
                self._happen(event, disk, unsynced, promise)
                if at >= point:
                    break
            image = bytearray(disk)
            for write in self._choose(unsynced):
                _put(image, write.offset, write.data)
            yield bytes(image), promise

    def _happen(self, event: Event, disk: bytearray, unsynced: list[Write], promise: Promise) -> None:
        if isinstance(event, Said):
            promise.hear(event.words)
        elif isinstance(event, Sync):
            for write in unsynced:
                _put(disk, write.offset, write.data)
            unsynced.clear()
        elif event.is_synced:
            _put(disk, event.offset, event.data)
        else:
            unsynced.append(event)

    def _choose(self, unsynced: list[Write]) -> list[Write]:
        """What of the unsynced writes reached the disk: none, all, some, all but one, the last; or torn."""
        pick = self._random
        how = pick.randrange(5)
        if how == 0 or not unsynced:
            return []
        if how == 1:
            return unsynced
        if how == 2:
            chosen = [write for write in unsynced if pick.random() < 0.5]
        elif how == 3:
            left_out = pick.choice(unsynced)
            chosen = [write for write in unsynced if write is not left_out]
        else:
            chosen = unsynced[-1:]
        return [part for write in chosen for part in (self._tear(write) if pick.random() < 0.3 else [write])]

    def _tear(self, write: Write) -> Iterator[Write]:
        for start in range(0, len(write.data), SECTOR_BYTES):
            if self._random.random() < 0.5:
                yield Write(write.offset + start, write.data[start : start + SECTOR_BYTES], False)


def _put(disk: bytearray, offset: int, data: bytes) -> None:
    if len(disk) < offset + len(data):
        disk.extend(bytes(offset + len(data) - len(disk)))
    disk[offset : offset + len(data)] = data


class Recovery:
    """A process that recovers image after image; one that kills it is a finding, and a new one goes on."""

    def __init__(self, path: Path) -> None:
        """`path` is a data directory whose data file is replaced by each image."""
        self._path = path
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, str(Path(__file__).with_name("power_cut_recovery.py")), str(self._path)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def recover(self, image: bytes) -> Found:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        (self._path / "log" / "data.mdb").write_bytes(image)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            code = self._process.wait()
            self.close()
            self._process = self._start()
            return Found(f"recovery died: exit code {code}", {}, 0, [])
        found = json.loads(answer)
        blobs = {int(position): chain for position, chain in found["blobs"].items()}
        return Found(found["error"], blobs, found["checkpoint"], found["findings"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def play(cuts: PowerCuts, recovery: Recovery, count: int) -> Counter[str]:
    """Verdicts on so many power cuts, counted."""
    return Counter(promise.verdict(recovery.recover(image)) for image, promise in cuts.images(count))
