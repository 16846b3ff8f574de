"""What a channel answers to those of its operations that have more to say than that they are done."""

from typing import NamedTuple

from ..message import QueuedMessage


class QueueDeclared(NamedTuple):
    """What queue.declare-ok carries."""

    name: str
    message_count: int
    consumer_count: int


class Got(NamedTuple):
    """What basic.get-ok carries; `message_count` is what is ready after this one."""

    delivery_tag: int
    copy: QueuedMessage
    message_count: int
