"""What methods are made of: wire types for their fields, and the decorator that derives a codec from them.

`methods.py` declares the methods; nothing else uses this module.
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from typing import Annotated, ClassVar, NamedTuple, TypeVar, dataclass_transform

from .field_table import FieldTable, encode_table, malformed, read_table


class WireType(NamedTuple):
    """How a field is read (payload, position -> value, next position) and written (appended)."""

    read: Callable[[bytes, int], tuple[object, int]]
    write: Callable[[bytearray, object], None]


def _number(layout: str) -> WireType:
    struct = Struct(layout)

    def read(payload: bytes, position: int) -> tuple[object, int]:
        return struct.unpack_from(payload, position)[0], position + struct.size

    def write(out: bytearray, value: object) -> None:
        out += struct.pack(value)

    return WireType(read, write)


def _bit(index: int, is_last: bool) -> WireType:
    """Bits that follow each other share an octet, the first one lowest (4.2.5.2)."""

    def read(payload: bytes, position: int) -> tuple[object, int]:
        return payload[position] >> index & 1 == 1, position + is_last

    def write(out: bytearray, value: object) -> None:
        if index == 0:
            out.append(0)
        out[-1] |= bool(value) << index

    return WireType(read, write)


def _read_string(payload: bytes, position: int) -> tuple[object, int]:
    start = position + 1
    end = start + payload[position]
    if end > len(payload):
        raise IndexError
    try:
        return payload[start:end].decode(), end
    except UnicodeDecodeError:
        raise malformed("a name that is not UTF-8") from None


def _write_string(out: bytearray, value: object) -> None:
    content = str(value).encode()
    if len(content) > 255:
        raise ValueError(f"a short string longer than 255 octets: {value!r:.60}...")
    out.append(len(content))
    out += content


def _read_long_string(payload: bytes, position: int) -> tuple[object, int]:
    start = position + 4
    end = start + int.from_bytes(payload[position:start], "big")
    if end > len(payload):
        raise IndexError
    return payload[start:end], end


def _write_long_string(out: bytearray, value: object) -> None:
    assert isinstance(value, bytes)
    out += len(value).to_bytes(4, "big")
    out += value


def _write_table(out: bytearray, value: object) -> None:
    assert isinstance(value, dict)
    out += encode_table(value)


_BIT = _bit(0, True)  # marks a bit; its real codec depends on the bits around it

Bit = Annotated[bool, _BIT]
Octet = Annotated[int, _number(">B")]
Short = Annotated[int, _number(">H")]
Long = Annotated[int, _number(">I")]
LongLong = Annotated[int, _number(">Q")]
ShortString = Annotated[str, WireType(_read_string, _write_string)]
LongString = Annotated[bytes, WireType(_read_long_string, _write_long_string)]
Table = Annotated[FieldTable, WireType(read_table, _write_table)]


# --- the codec ----------------------------------------------------------------------------------------


class Method:
    """The common face of all methods."""

    __slots__ = ()

    ids: ClassVar[tuple[int, int]]
    """(class id, method id)"""
    name: ClassVar[str]
    """As the specification writes it: `queue.declare-ok`."""
    layout: ClassVar[tuple[tuple[str, WireType], ...]]
    """(field name, codec) in wire order."""


MethodT = TypeVar("MethodT", bound=Method)

METHODS: dict[tuple[int, int], type[Method]] = {}
"""Every method class by its ids."""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def method(class_id: int, method_id: int) -> Callable[[type[MethodT]], type[MethodT]]:
    """Make a class of annotated fields the method with these ids. Its fields become keyword arguments."""

    def declare(undecorated: type[MethodT]) -> type[MethodT]:
        cls = dataclass(frozen=True, slots=True, kw_only=True)(undecorated)
        class_name, *words = re.findall("[A-Z][a-z]*", cls.__name__)
        cls.ids = (class_id, method_id)
        cls.name = f"{class_name}.{'-'.join(words)}".lower()
        cls.layout = _layout(cls)
        METHODS[cls.ids] = cls
        return cls

    return declare


def _layout(cls: type[Method]) -> tuple[tuple[str, WireType], ...]:
    annotations = inspect.get_annotations(cls)
    marks = [annotation.__metadata__[0] for annotation in annotations.values()]
    layout = []
    bit = 0
    for index, (name, mark) in enumerate(zip(annotations, marks, strict=True)):
        if mark is _BIT:
            is_last = marks[index + 1 : index + 2] != [_BIT]
            layout.append((name, _bit(bit, is_last)))
            bit = 0 if is_last else bit + 1
        else:
            layout.append((name, mark))
    return tuple(layout)
