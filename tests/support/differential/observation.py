"""What a broker let its clients see, as lines of text that are equal where two brokers behave alike.

Names that a broker makes up become `<gen1>`, `<ctag1>`, ... in the order in which they were met; a moment of
today becomes `<now>`. What is intended to differ (docs/rabbitmq-differences.md) is left out here.
"""

import re
from datetime import UTC, datetime
from typing import NamedTuple

from leveret.protocol.amqp.field_table import FieldValue, field_type_name
from leveret.protocol.amqp.properties import decode_properties
from leveret.protocol.amqp.wire_types import Method

from .script import brief

Lines = list[str]


class Observation(NamedTuple):
    """What one step showed."""

    ends: Lines
    """Channels and connections that the broker closed, consumers that it cancelled."""
    rest: Lines | None
    """Everything else; None where it is left to chance, and after that so is the rest of the script."""

    def is_like(self, other: "Observation") -> bool:
        return self.ends == other.ends and (None in (self.rest, other.rest) or self.rest == other.rest)

    @property
    def lines(self) -> Lines:
        return [*self.ends, *(self.rest or [])]


_MADE_UP = re.compile(r"amq\.(gen|ctag|rabbitmq\.reply-to)[-.][\w.=+/-]{22,}")
_LAST_DEATH = "x-last-death-"  # RabbitMQ has these headers since 3.13
_TODAY_S = 3600
_SHOWN_BODY_MAX = 40


class Names:
    """Gives the names that a broker made up in one play their places."""

    def __init__(self) -> None:
        self._by_actual: dict[str, str] = {}
        self._by_place: dict[str, str] = {}

    def conceal(self, text: str) -> str:
        """The text with places for made-up names."""
        return _MADE_UP.sub(lambda match: self._place(match[0], match[1]), text)

    def reveal(self, text: str) -> str:
        """The actual name of a place; any other text as it is."""
        return self._by_place.get(text, text)

    def _place(self, actual: str, kind: str) -> str:
        if actual not in self._by_actual:
            of_kind = sum(place.startswith(f"<{kind}") for place in self._by_place)
            place = f"<{kind}{of_kind + 1}>"
            self._by_actual[actual] = place
            self._by_place[place] = actual
        return self._by_actual[actual]


def show_method(method: Method) -> str:
    return f"{method.name} {brief(method).partition('(')[2][:-1]}"


def show_content(properties: bytes, body: bytes) -> str:
    """Properties with the wire types of their headers, and the body's start and size."""
    decoded = decode_properties(properties)
    shown = [
        f"{name}={_show_value(value) if name == 'headers' else repr(value)}"
        for name in decoded.__dataclass_fields__
        if (value := getattr(decoded, name)) is not None
    ]
    return f"[{', '.join(shown)}] {body[:_SHOWN_BODY_MAX]!r} ({len(body)})"


def _show_value(value: FieldValue, *, any_order: bool = False) -> str:
    """`any_order`: of the entries that the broker itself puts into a dead letter's headers."""
    if isinstance(value, dict):
        any_order = any_order or "x-death" in value
        entries = [
            f"{name}: {_show_value(entry, any_order=any_order)}"
            for name, entry in value.items()
            if not name.startswith(_LAST_DEATH)
        ]
        return "{" + ", ".join(sorted(entries) if any_order else entries) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_show_value(entry, any_order=any_order) for entry in value) + "]"
    if isinstance(value, datetime) and abs((datetime.now(UTC) - value).total_seconds()) < _TODAY_S:
        return "<now>"
    return f"{field_type_name(value)} {value!r}"
