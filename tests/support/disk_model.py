"""A disk whose power can fail: what of a process's file operations is certainly on it, and what may be.

A `Disk` is told each operation in the order in which they ended; `write_image` then makes, as real files, a
state in which a power cut may leave them. The rules:

- What a sync covers, or was written through O_DSYNC, is there. A sync covers what had ended when it began.
- Of a file's other changes there are none, all, some, all but one, or only the last; each write whole, or
  torn at sectors or at pages.
- A name is there once its directory was synced, whatever was synced of the file. Other changes of a
  directory are lost from some point on, as a file system with a journal loses them; a rename is one change.

Not covered: file systems that break these rules, and drives that lie about their caches.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random

SECTOR_BYTES = 512
PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Write:
    path: Path
    offset: int
    data: bytes
    is_synced: bool = False  # through an O_DSYNC descriptor


@dataclass(frozen=True, slots=True)
class Resize:
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Allocate:
    """Zeros up to `end`, where the file is shorter."""

    path: Path
    end: int


@dataclass(frozen=True, slots=True)
class Create:
    path: Path
    is_directory: bool = False


@dataclass(frozen=True, slots=True)
class Rename:
    path: Path
    target: Path


@dataclass(frozen=True, slots=True)
class Remove:
    path: Path


@dataclass(frozen=True, slots=True)
class Sync:
    """Of a file or a directory."""

    path: Path
    began: int  # how many operations had ended then


Change = Write | Resize | Allocate
Operation = Change | Create | Rename | Remove | Sync


@dataclass(slots=True)
class File:
    """What is certainly on the disk, and what was changed since."""

    content: bytearray = field(default_factory=bytearray)  # zeros follow, up to `size`
    size: int = 0
    unsynced: list[tuple[int, Change]] = field(default_factory=list)  # with the number of the operation

    def put(self, change: Change) -> None:
        """Let a change reach the disk."""
        if isinstance(change, Write):
            end = change.offset + len(change.data)
            self.content.extend(bytes(max(0, end - len(self.content))))
            self.content[change.offset : end] = change.data
            self.size = max(self.size, end)
        elif isinstance(change, Resize):
            del self.content[change.size :]
            self.size = change.size
        else:
            self.size = max(self.size, change.end)

    def sync(self, began: int) -> None:
        for number, change in self.unsynced:
            if number < began:
                self.put(change)
        self.unsynced = [entry for entry in self.unsynced if entry[0] >= began]

    def left_by(self, chance: Random) -> "File":
        """One of the files that a power cut may leave."""
        left = File(bytearray(self.content), self.size)
        for change in _survivors([change for _, change in self.unsynced], chance):
            left.put(change)
        return left


@dataclass(slots=True)
class Directory:
    """The names that are certainly on the disk, and those that a process sees."""

    durable: dict[str, "Node"] = field(default_factory=dict)
    names: dict[str, "Node"] = field(default_factory=dict)
    unsynced: list[tuple[int, dict[str, "Node | None"]]] = field(default_factory=list)  # None: removed

    def change(self, number: int, names: dict[str, "Node | None"]) -> None:
        """Change some names at once."""
        _apply(names, self.names)
        self.unsynced.append((number, names))

    def sync(self, began: int) -> None:
        for number, names in self.unsynced:
            if number < began:
                _apply(names, self.durable)
        self.unsynced = [entry for entry in self.unsynced if entry[0] >= began]

    def left_by(self, chance: Random) -> dict[str, "Node"]:
        """One of the sets of names that a power cut may leave."""
        left = dict(self.durable)
        for _, names in self.unsynced[: chance.randint(0, len(self.unsynced))]:
            _apply(names, left)
        return left


Node = File | Directory


class Disk:
    """Everything below one directory, `root`, which itself is never lost."""

    def __init__(self, root: Path) -> None:
        """What lies there now is on the disk."""
        self._root = root
        self._top = _read(root)
        self._count = 0  # operations so far

    def apply(self, operation: Operation) -> None:
        """The process did this."""
        self._count += 1
        number = self._count - 1
        path = operation.path
        if isinstance(operation, Sync):
            self._find(path).sync(operation.began)
        elif isinstance(operation, Create):
            if path.name not in self._directory(path.parent).names:
                node: Node = Directory() if operation.is_directory else File()
                self._directory(path.parent).change(number, {path.name: node})
        elif isinstance(operation, Remove):
            self._directory(path.parent).change(number, {path.name: None})
        elif isinstance(operation, Rename):
            if operation.target.parent != path.parent:
                raise ValueError(f"{operation} leaves its directory, which is not modelled")
            names = {path.name: None, operation.target.name: self._find(path)}
            self._directory(path.parent).change(number, names)
        else:
            self._change(number, operation)

    def _change(self, number: int, change: Change) -> None:
        file = self._find(change.path)
        assert isinstance(file, File), f"{change.path} is a directory"
        if isinstance(change, Write) and change.is_synced:
            if any(isinstance(other, Write) and _overlap(other, change) for _, other in file.unsynced):
                raise ValueError(f"{change.path}: O_DSYNC over unsynced bytes is not modelled")
            file.put(change)
        else:
            file.unsynced.append((number, change))

    def sync_all(self) -> None:
        """Everything reaches the disk."""
        for node in self._nodes(self._top):
            node.sync(self._count)

    def has_unsynced(self) -> bool:
        return any(node.unsynced for node in self._nodes(self._top))

    def write_image(self, target: Path, chance: Random, begun: Operation | None = None) -> None:
        """Make `target` a directory as `root` may be after a power cut now, while `begun` is under way."""
        if not isinstance(begun, Write):
            _write(self._top, target, chance)
            return
        file = self._find(begun.path)
        assert isinstance(file, File)
        file.unsynced.append((self._count, begun))
        _write(self._top, target, chance)
        file.unsynced.pop()

    def _directory(self, path: Path) -> Directory:
        node = self._find(path)
        assert isinstance(node, Directory), f"{path} is a file"
        return node

    def _find(self, path: Path) -> Node:
        node: Node = self._top
        for name in path.relative_to(self._root).parts:
            assert isinstance(node, Directory)
            node = node.names[name]
        return node

    def _nodes(self, node: Node) -> Iterator[Node]:
        yield node
        if isinstance(node, Directory):
            for below in node.names.values():
                yield from self._nodes(below)


def _survivors(unsynced: list[Change], chance: Random) -> Iterable[Change]:
    """What of the unsynced changes reached the disk."""
    how = chance.randrange(5)
    if how == 0 or not unsynced:
        return []
    if how == 1:
        return unsynced
    if how == 2:
        chosen = [change for change in unsynced if chance.random() < 0.5]
    elif how == 3:
        left_out = chance.randrange(len(unsynced))
        chosen = [change for at, change in enumerate(unsynced) if at != left_out]
    else:
        chosen = unsynced[-1:]
    unit = chance.choice((SECTOR_BYTES, PAGE_BYTES))
    return [part for change in chosen for part in _torn(change, unit, chance)]


def _torn(change: Change, unit: int, chance: Random) -> Iterable[Change]:
    """A change, or what a power cut in the middle of it leaves: about half of its sectors, or pages."""
    if not isinstance(change, Write) or chance.random() < 0.7:
        yield change
        return
    end = change.offset + len(change.data)
    borders = [change.offset, *range(change.offset // unit * unit + unit, end, unit), end]
    for start, stop in pairwise(borders):
        if chance.random() < 0.5:
            yield Write(change.path, start, change.data[start - change.offset : stop - change.offset])


def _overlap(one: Write, other: Write) -> bool:
    return one.offset < other.offset + len(other.data) and other.offset < one.offset + len(one.data)


def _apply(names: dict[str, Node | None], to: dict[str, Node]) -> None:
    for name, node in names.items():
        if node is None:
            to.pop(name, None)
        else:
            to[name] = node


def _read(path: Path) -> Directory:
    nodes: dict[str, Node] = {}
    for entry in path.iterdir():
        if entry.is_dir():
            nodes[entry.name] = _read(entry)
        else:
            content = entry.read_bytes()
            nodes[entry.name] = File(bytearray(content.rstrip(b"\0")), len(content))
    return Directory(nodes, dict(nodes))


def _write(node: Node, path: Path, chance: Random) -> None:
    if isinstance(node, Directory):
        path.mkdir()
        for name, below in node.left_by(chance).items():
            _write(below, path / name, chance)
    else:
        left = node.left_by(chance)
        with path.open("wb") as file:
            file.write(left.content)
            file.truncate(left.size)
