"""`Processing` for synchronous code.

Written by generate.py from leveret.client.processing: `make sync` writes it anew.
"""

from __future__ import annotations  # these modules import each other

from types import TracebackType

from leveret.client import processing as aio

from . import incoming as _incoming
from .face import Face


class Processing(Face[aio.Processing]):
    """See `IncomingMessage.process`."""

    __slots__ = ()

    def __enter__(self) -> _incoming.IncomingMessage:
        return _incoming.IncomingMessage(self._portal, self._portal.run_here(self._async.__aenter__))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal.run_here(lambda: self._async.__aexit__(kind, error, traceback))
