"""What all exchange types share, and what a type must say: which of its bindings an envelope matches.

The vhost makes exchanges and decides which bindings they have; an exchange only keeps an index of them that
suits its type. Matching changes nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from leveret.protocol.amqp.field_table import FieldTable, FieldValue, decode_table

from ..binding import Binding, Destination

ALTERNATE = "alternate-exchange"


class Envelope:
    """What exchanges see of a message."""

    __slots__ = ("_headers", "keys", "was_opened")

    def __init__(self, keys: Sequence[str], headers: bytes | None) -> None:
        self.keys = keys
        """The routing key and those of the CC and BCC headers."""
        self._headers = headers
        self.was_opened = False
        """Whether an exchange asked for the headers, so that the route depends on more than the keys."""

    def open_headers(self) -> FieldTable:
        self.was_opened = True
        return {} if self._headers is None else decode_table(self._headers)


class Exchange(ABC):
    """Compared by identity."""

    type: ClassVar[str]

    def __init__(
        self,
        name: str,
        vhost_name: str,
        *,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Mapping[str, FieldValue],
    ) -> None:
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete  # it goes with the last binding from it
        self.internal = internal  # clients may bind it but not publish to it
        self.arguments = arguments  # as declared
        self.record = b""  # what the journal keeps of it, if it is durable and not predeclared
        self._vhost_name = vhost_name

    def __str__(self) -> str:
        return f"exchange '{self.name}' in vhost '{self._vhost_name}'"

    @property
    def alternate(self) -> str | None:
        """The name of the exchange that gets what this one cannot route."""
        name = self.arguments.get(ALTERNATE)
        return name if isinstance(name, str) else None

    def check_binding(self, arguments: Mapping[str, FieldValue]) -> None:  # noqa: B027  # most types accept any
        """Raises 406 for binding arguments that this type cannot understand."""

    @abstractmethod
    def add_binding(self, binding: Binding) -> None: ...

    @abstractmethod
    def remove_binding(self, binding: Binding) -> None: ...

    @abstractmethod
    def match(self, envelope: Envelope) -> Iterable[Destination]:
        """The destinations of the bindings that match; one may come more than once."""
