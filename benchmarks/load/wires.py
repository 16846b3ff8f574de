"""The wires by name."""

from .amqp_link import AmqpLink
from .link import Link
from .native_link import NativeLink

AMQP, NATIVE = "amqp", "native"

WIRES: dict[str, type[Link]] = {AMQP: AmqpLink, NATIVE: NativeLink}
