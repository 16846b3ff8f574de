"""The direct exchange: a binding matches when its key is the routing key (0-9-1 section 3.1.3.1)."""

from collections.abc import Iterator
from typing import Any

from ..binding import Binding, BindingSet, Destination
from .exchange import Envelope, Exchange


class DirectExchange(Exchange):
    """Bindings by key."""

    type = "direct"

    def __init__(self, name: str, vhost_name: str, **properties: Any) -> None:
        super().__init__(name, vhost_name, **properties)
        self._by_key: dict[str, BindingSet] = {}

    def add_binding(self, binding: Binding) -> None:
        self._by_key.setdefault(binding.key, BindingSet()).add(binding)

    def remove_binding(self, binding: Binding) -> None:
        bindings = self._by_key[binding.key]
        bindings.remove(binding)
        if not bindings:
            del self._by_key[binding.key]

    def match(self, envelope: Envelope) -> Iterator[Destination]:
        for key in envelope.keys:
            for binding in self._by_key.get(key, ()):
                yield binding.destination
