"""`async with message.process():` a message is settled by how the block ends. Made by `IncomingMessage`."""

import logging
from types import TracebackType
from typing import TYPE_CHECKING

from .errors import DeliveryLost, LeveretError

if TYPE_CHECKING:
    from .incoming import IncomingMessage

log = logging.getLogger(__name__)


class Processing:
    """See `IncomingMessage.process`."""

    __slots__ = ("_ignore_processed", "_message", "_requeue")

    def __init__(self, message: "IncomingMessage", *, requeue: bool, ignore_processed: bool) -> None:
        self._message = message
        self._requeue = requeue
        self._ignore_processed = ignore_processed

    async def __aenter__(self) -> "IncomingMessage":
        return self._message

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        message = self._message
        if error is None:
            if not (self._ignore_processed and message.is_settled):
                self._ack()
        elif message.is_settled:
            pass  # the block's own error is the one to see
        elif not isinstance(error, Exception):
            message.give_back()  # cancelled: it did not fail
        else:
            try:
                message.reject(requeue=self._requeue)
            except LeveretError as lost:
                log.info("message %d, whose processing failed, comes again: %s", message.delivery_tag, lost)

    def _ack(self) -> None:
        try:
            self._message.ack()
        except DeliveryLost as lost:
            log.warning("message %d was processed and comes again: %s", self._message.delivery_tag, lost)
