"""The default exchange, which has no name: every queue is bound to it by its own, always and implicitly."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..binding import Binding
from .exchange import Envelope, Exchange

if TYPE_CHECKING:
    from ...queues.queue import Queue


class DefaultExchange(Exchange):
    """Looks at the vhost's queues, so it has no bindings of its own."""

    type = "direct"

    def __init__(self, vhost_name: str, queues: "Mapping[str, Queue]") -> None:
        super().__init__("", vhost_name, durable=True, auto_delete=False, internal=False, arguments={})
        self._queues = queues

    def add_binding(self, binding: Binding) -> None:
        raise AssertionError("the vhost refuses bindings of the default exchange")

    def remove_binding(self, binding: Binding) -> None:
        raise AssertionError("the default exchange has no bindings")

    def match(self, envelope: Envelope) -> "Iterator[Queue]":
        for key in envelope.keys:
            queue = self._queues.get(key)
            if queue is not None:
                yield queue
