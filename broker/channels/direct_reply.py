"""Direct reply-to: answers that go straight to the channel that waits for them, through no queue.

A client consumes from the pseudo-queue `amq.rabbitmq.reply-to` and publishes requests with that name as
reply-to, on one channel. The broker puts a name of its own in its place; whoever publishes to the default
exchange with that name as routing key reaches the channel directly. Nothing is kept: if the channel is gone,
or its socket is full, the answer is dropped. (An extension of RabbitMQ, which calls it "direct reply-to".)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..message import Message
    from .channel import Channel

REPLY_TO = "amq.rabbitmq.reply-to"
_PREFIX = REPLY_TO + "."


class ReplyConsumer:
    """A channel's consumer of answers; the channel owns it."""

    def __init__(self, consumer_tag: str, secret: str, channel: "Channel") -> None:
        self.consumer_tag = consumer_tag
        self.name = _PREFIX + secret  # what the channel's requests carry as reply-to
        self.channel = channel


class DirectReplies:
    """All consumers of answers, by name. One per broker."""

    def __init__(self) -> None:
        self._consumers: dict[str, ReplyConsumer] = {}

    def add(self, consumer: ReplyConsumer) -> None:
        self._consumers[consumer.name] = consumer

    def remove(self, consumer: ReplyConsumer) -> None:
        del self._consumers[consumer.name]

    def has(self, name: str) -> bool:
        """Whether a message to this name would reach somebody."""
        return name == REPLY_TO or name in self._consumers

    def deliver(self, message: "Message") -> bool:
        """Hand over what was published to the default exchange.

        Returns whether its routing key is a name of this kind: then it counts as routed.
        """
        consumer = self._consumers.get(message.routing_key)
        if consumer is not None:
            consumer.channel.deliver_reply(message)
        return is_answer(message.exchange, message.routing_key)


def is_answer(exchange: str, routing_key: str) -> bool:
    """Whether what is published there goes straight to a channel, if that is still there."""
    return not exchange and routing_key.startswith(_PREFIX)


def is_reply_name(queue_name: str) -> bool:
    """Whether a queue name means direct reply-to and no queue."""
    return queue_name.startswith(REPLY_TO)
