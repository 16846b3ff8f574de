"""Leveret: a message broker with AMQP semantics whose confirm means that the message is on the disk."""

from .version import __version__

__all__ = ["__version__"]
