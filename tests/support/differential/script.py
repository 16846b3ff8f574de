"""What a script is made of: steps, each an action on one channel of one of two connections.

An action is an AMQP method as it is, or one of the classes here where a method alone cannot say it: content,
and delivery tags that are only known when the script is played. A `Script` prints as Python that makes it.
"""

from dataclasses import dataclass, fields
from typing import Any

from leveret.protocol.amqp.field_table import Float32, TypedInt
from leveret.protocol.amqp.methods import BasicPublish
from leveret.protocol.amqp.properties import BasicProperties
from leveret.protocol.amqp.wire_types import Method


@dataclass(frozen=True)
class Publish:
    """A basic.publish with content; the player makes a body that tells the step."""

    method: BasicPublish
    properties: BasicProperties
    padding: int = 0
    """Octets that the body is longer."""

    def __repr__(self) -> str:
        parts = [brief(self.method), brief(self.properties)]
        return f"Publish({', '.join(parts)}, padding={self.padding})"


@dataclass(frozen=True)
class Settle:
    """basic.ack, basic.nack or basic.reject of the `which`-th outstanding delivery (counted in a circle).

    `multiple` goes up to the newest delivery of the same step: in which order those of several queues come is
    left to chance. With nothing outstanding it does nothing.
    """

    kind: str
    which: int = 0
    multiple: bool = False
    requeue: bool = True


@dataclass(frozen=True)
class SettleTag:
    """The same for a delivery tag as it is, right or wrong."""

    kind: str
    tag: int
    multiple: bool = False
    requeue: bool = True


@dataclass(frozen=True)
class CloseConnection:
    """connection.close, or with `politely` False only the end of the socket."""

    politely: bool = True


@dataclass(frozen=True)
class Wait:
    """Time passes: what has a short TTL expires."""


Action = Method | Publish | Settle | SettleTag | CloseConnection | Wait


@dataclass(frozen=True)
class Step:
    """An action and where: connection 0 or 1, channel 1 or 2."""

    connection: int
    channel: int
    action: Action

    def __repr__(self) -> str:
        return f"Step({self.connection}, {self.channel}, {brief(self.action)})"


@dataclass(frozen=True)
class Script:
    """The steps of one example."""

    steps: tuple[Step, ...]
    sleeps: bool = False
    """Whether there are short TTLs: each step then leaves time for what expires."""

    def __repr__(self) -> str:
        lines = "".join(f"    {step!r},  # {number}\n" for number, step in enumerate(self.steps))
        return f"Script(sleeps={self.sleeps}, steps=(\n{lines}))"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """For Hypothesis, which else would show every field of every method."""
        printer.text(repr(self))


def brief(value: object) -> str:
    """The value as Python; of a dataclass only the fields that are not as by default."""
    if isinstance(value, TypedInt | Float32):
        return f"{type(value).__name__}({value!r})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name!r}: {brief(field)}" for name, field in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(brief, value)) + "]"
    if not isinstance(value, Method | BasicProperties | Settle | SettleTag | CloseConnection | Wait):
        return repr(value)
    shown = [
        f"{field.name}={brief(getattr(value, field.name))}"
        for field in fields(value)
        if (current := getattr(value, field.name)) != field.default
        and (current != {} or field.name == "headers")  # an empty table is arguments' default
    ]
    return f"{type(value).__name__}({', '.join(shown)})"
