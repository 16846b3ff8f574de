"""docs/native-protocol.md is normative: its table and its example must be what the code does."""

import re
from pathlib import Path

from leveret.protocol.native.connection import ClientConnection, ServerConnection
from leveret.protocol.native.fields import (
    DEPTH_MAX,
    ENTRIES_MAX,
    MAP_ENTRIES_MAX,
    NAME_MAX_BYTES,
    PROPERTIES_MAX_BYTES,
    TAG_RANGE_MAX,
)
from leveret.protocol.native.framing import MAGIC
from leveret.protocol.native.layouts import LAYOUTS, REQUIRED, Field, FrameType, Role

DOCUMENT = (Path(__file__).parents[3] / "docs" / "native-protocol.md").read_text()
SENDERS = {Role.CLIENT: "C", Role.SERVER: "S", Role.BOTH: "both"}
DEFAULTS = {False: "false", True: "true", None: "nil", b"": '""'}


def shown(field: Field) -> str:
    """A field as the document writes it."""
    text = f"{field.name}: {field.type.name}"
    default = field.default
    if default is REQUIRED:
        return text
    if isinstance(default, bool | bytes) or default is None:
        return f"{text}={DEFAULTS[default]}"
    return f'{text}="{default}"' if isinstance(default, str) else f"{text}={default}"


def test_the_table_of_frames_is_the_one_of_the_code() -> None:
    rows = re.findall(r"^\| (0x\w\w) \| (\w+) \| (C|S|both) \| (.*)\|$", DOCUMENT, re.MULTILINE)
    documented = [(int(number, 16), name, sender, fields.strip()) for number, name, sender, fields in rows]
    implemented = [
        (number, layout.type.name, SENDERS[layout.sender], ", ".join(map(shown, layout.fields)))
        for number, layout in LAYOUTS.items()
    ]
    assert documented == implemented


def test_every_frame_type_has_a_layout() -> None:
    assert set(LAYOUTS) == {type_.value for type_ in FrameType}


def test_the_limits_of_the_document_are_those_of_the_code() -> None:
    for limit in (ENTRIES_MAX, MAP_ENTRIES_MAX, PROPERTIES_MAX_BYTES, TAG_RANGE_MAX):
        assert f"{limit:,}" in DOCUMENT
    assert f"nesting of arguments | {DEPTH_MAX} " in DOCUMENT
    assert f"| {NAME_MAX_BYTES} octets of UTF-8" in DOCUMENT


def example(number: int) -> list[bytes]:
    """The octets of the n-th example, split at empty lines; what is no pair of digits is a comment."""
    block = re.findall(r"^```\n(.*?)^```$", DOCUMENT.partition("## 10.")[2], re.MULTILINE | re.DOTALL)[number]
    parts = []
    for part in block.split("\n\n"):
        octets = [re.match(r"((?: *[0-9A-F]{2}(?= |$))+)", line) for line in part.splitlines()]
        parts.append(bytes.fromhex("".join(match[1] for match in octets if match).replace(" ", "")))
    return parts


def test_the_handshake_of_the_example_is_understood() -> None:
    opening, answer = example(0)
    assert opening.startswith(MAGIC)
    server = ServerConnection()
    [hello] = server.receive_data(opening)
    assert hello == [FrameType.HELLO, 0, 0, 60, "PLAIN", b"\0guest\0guest", "/", {"product": "x"}]
    server.welcome(hello, {})
    assert b"".join(server.data_to_send()) == answer


def test_the_publish_of_the_example_is_understood() -> None:
    server, client = ServerConnection(), ClientConnection()
    opening, answer = example(0)
    server.welcome(server.receive_data(opening)[0], {})
    client.receive_data(answer)
    [octets] = example(1)
    frames = []
    while octets:
        end = 4 + int.from_bytes(octets[:4], "big")
        frame, octets = octets[:end], octets[end:]
        receiver = client if frame[5] in (FrameType.REPLY, FrameType.CONFIRM) else server
        frames.append(receiver.receive_data(frame))
    assert frames == [
        [[FrameType.CHANNEL_OPEN, 1, 1, True, b"", 0]],
        [[FrameType.REPLY, 1, []]],
        [[FrameType.PUBLISH, 1, 1, [(("", "job", 0, b"\x10\x00\x02"), [b"hi"])]]],
        [[FrameType.CONFIRM, 1, [1]]],
    ]
