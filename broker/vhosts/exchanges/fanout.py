"""The fanout exchange: every binding matches (0-9-1 section 3.1.3.2)."""

from collections.abc import Iterator
from typing import Any

from ..binding import Binding, Destination
from .exchange import Envelope, Exchange


class FanoutExchange(Exchange):
    """All bindings, in the order in which they were made."""

    type = "fanout"

    def __init__(self, name: str, vhost_name: str, **properties: Any) -> None:
        super().__init__(name, vhost_name, **properties)
        self._bindings: dict[Binding, None] = {}

    def add_binding(self, binding: Binding) -> None:
        self._bindings[binding] = None

    def remove_binding(self, binding: Binding) -> None:
        del self._bindings[binding]

    def match(self, envelope: Envelope) -> Iterator[Destination]:
        for binding in self._bindings:
            yield binding.destination
