"""A connection as the domain sees it: who is there, on which vhost, with which channels. The session owns it.

It is the owner of its exclusive queues: they go when it goes.
"""

from typing import TYPE_CHECKING, TypeVar

from .auth import User
from .channels.channel import Channel
from .channels.producer_channel import ProducerChannel
from .channels.wire import Wire
from .vhosts.vhost import Vhost

if TYPE_CHECKING:
    from .broker import Broker

_Channel = TypeVar("_Channel", bound=Channel)


class Connection:
    """Made by `Broker.open_connection` after login and vhost are settled."""

    def __init__(self, broker: "Broker", vhost: Vhost, user: User, name: str) -> None:
        self.vhost = vhost
        self.user = user
        self.name = name  # peer address -> own address, as RabbitMQ names connections
        self.journal = broker.journal
        self.counters = broker.counters
        self.ack_timeout_ms = broker.ack_timeout_ms
        self.direct_replies = broker.direct_replies
        self.producers = broker.producers
        self.channels: dict[int, Channel] = {}
        self._broker = broker

    def open_channel(self, number: int, wire: Wire) -> Channel:
        """The session has checked that the number is free and allowed."""
        return self._add_channel(Channel(self, number, wire))

    def open_producer_channel(
        self, number: int, wire: Wire, producer_id: bytes, opening: int
    ) -> ProducerChannel:
        """The same, for a producer: with confirms. Raises SoftError when it comes too late."""
        return self._add_channel(ProducerChannel(self, number, wire, producer_id, opening))

    def _add_channel(self, channel: _Channel) -> _Channel:
        self.channels[channel.number] = channel
        self.counters.channels_opened += 1
        return channel

    def close_channel(self, number: int) -> None:
        """Close a channel if it is open."""
        channel = self.channels.pop(number, None)
        if channel is not None:
            channel.close()
            self.counters.channels_closed += 1

    def take_back_overdue(self, now_s: float) -> None:
        """To be called every now and then: see `Channel.take_back_overdue`."""
        for channel in list(self.channels.values()):
            if channel.unacked_count:
                channel.take_back_overdue(now_s)

    def close(self) -> None:
        """Close all channels and delete the exclusive queues. Idempotent."""
        for number in list(self.channels):
            self.close_channel(number)
        self.vhost.delete_exclusive_queues(self)
        self._broker.connection_closed(self)
