"""A vhost on fakes, and short words for what tests do with it.

Make a `SmallVhost()` per test. `ME` and `OTHER` stand for two connections.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from fake_services import FakeServices

from leveret.broker.queues.queue import Queue
from leveret.broker.vhosts.exchanges.exchange import Exchange
from leveret.broker.vhosts.vhost import Vhost
from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.properties import BasicProperties, encode_properties, read_facts
from leveret.protocol.errors import AmqpError, HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode

ME, OTHER = "a connection", "another connection"


class SmallVhost:
    """Everything durable by default; names of queues come out where `Vhost` gives queues."""

    def __init__(self) -> None:
        self.fakes = FakeServices()
        self.vhost = Vhost("/", self.fakes.services)

    @property
    def changes(self) -> list[dict[str, object]]:
        """What the journal was told."""
        return self.fakes.journal.changes

    def exchange(
        self,
        name: str,
        type_: str = "direct",
        *,
        passive: bool = False,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        **arguments: Any,
    ) -> Exchange:
        """Declare; `alternate_exchange="x"` becomes the argument `alternate-exchange`."""
        return self.vhost.declare_exchange(
            name,
            type_,
            passive=passive,
            durable=durable,
            auto_delete=auto_delete,
            internal=internal,
            arguments=_arguments(arguments),
        )

    def queue(
        self,
        name: str,
        *,
        owner: object = ME,
        passive: bool = False,
        durable: bool = True,
        exclusive: bool = False,
        auto_delete: bool = False,
        **arguments: Any,
    ) -> Queue:
        """Declare; `x_expires=5` becomes the argument `x-expires`."""
        return self.vhost.declare_queue(
            name,
            owner,
            passive=passive,
            durable=durable,
            exclusive=exclusive,
            auto_delete=auto_delete,
            arguments=_arguments(arguments),
        )

    def queues(self, *names: str) -> None:
        for name in names:
            self.queue(name)

    def bind(self, queue: str, exchange: str, key: str = "", arguments: FieldTable | None = None) -> None:
        self.vhost.bind_queue(queue, exchange, key, arguments or {}, ME)

    def unbind(self, queue: str, exchange: str, key: str = "", arguments: FieldTable | None = None) -> None:
        self.vhost.unbind_queue(queue, exchange, key, arguments or {}, ME)

    def bind_exchange(self, destination: str, source: str, key: str = "") -> None:
        self.vhost.bind_exchange(destination, source, key, {})

    def unbind_exchange(self, destination: str, source: str, key: str = "") -> None:
        self.vhost.unbind_exchange(destination, source, key, {})

    def delete_queue(
        self, name: str, *, owner: object = ME, if_unused: bool = False, if_empty: bool = False
    ) -> int:
        return self.vhost.delete_queue(name, owner, if_unused=if_unused, if_empty=if_empty)

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        self.vhost.delete_exchange(name, if_unused=if_unused)

    def publish(self, exchange: str, key: str = "", headers: FieldTable | None = None) -> list[str]:
        """The names of the queues that a client's message is routed to, in order."""
        properties = encode_properties(BasicProperties(headers=headers))
        queues, _ = self.vhost.route_publish(exchange, key, properties, read_facts(properties))
        return names(queues)

    def route(self, exchange: str, key: str = "", headers: FieldTable | None = None) -> list[str]:
        """The same for a message of the broker's own."""
        properties = encode_properties(BasicProperties(headers=headers))
        return names(self.vhost.route(exchange, key, read_facts(properties)))


def names(queues: Sequence[Queue]) -> list[str]:
    return [queue.name for queue in queues]


def _arguments(keywords: dict[str, Any]) -> FieldTable:
    return {name.replace("_", "-"): value for name, value in keywords.items()}


@contextmanager
def refused(code: ReplyCode, text: str, kind: type[AmqpError] = SoftError) -> Iterator[None]:
    """The block raises exactly this error; `text` is what follows the code's name."""
    with pytest.raises(kind) as caught:
        yield
    assert (caught.value.reply_code, caught.value.explanation) == (code, text)


@contextmanager
def connection_refused(code: ReplyCode, text: str) -> Iterator[None]:
    """The same for an error that closes the connection."""
    with refused(code, text, HardError):
        yield
