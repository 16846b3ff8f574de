"""Publisher confirms of one channel: which publish tags were answered, and how few frames say so.

Tags count from 1 at the first confirm.select. The journal calls `confirm_up_to` in rising order once
everything up to a tag is durable; tags refused before (reject-publish) get their nack in their place, and a
tag answered otherwise (the native wire answers a failed publish with its error) is passed over.
"""

from collections import deque

from .wire import Wire


class Confirms:
    """Made by `Channel.confirm_select`."""

    __slots__ = ("_answered", "_confirmed", "_wire", "last_tag")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.last_tag = 0  # of the newest publish
        self._confirmed = 0  # every tag up to this one has been answered
        self._answered: deque[tuple[int, bool]] = (
            deque()
        )  # (tag, needs a nack), rising, not reached by confirms yet

    def refuse(self, tag: int) -> None:
        """A queue refused the publish, the newest of which we hear: a nack when its turn comes."""
        self._answered.append((tag, True))

    def skip(self, tag: int) -> None:
        """The publish, the newest of which we hear, was answered by an error of its own."""
        self._answered.append((tag, False))

    @property
    def outstanding(self) -> int:
        """How many publishes wait for an answer."""
        return self.last_tag - self._confirmed

    def confirm_up_to(self, tag: int) -> int:
        """Everything up to this tag is as durable as it asked to be. Returns how many that answers."""
        before = self._confirmed
        while self._answered and self._answered[0][0] <= tag:
            answered, refused = self._answered.popleft()
            self._confirm_run(answered - 1)
            if refused:
                self._wire.refuse(answered, False)
            self._confirmed = answered
        self._confirm_run(tag)
        return self._confirmed - before

    def _confirm_run(self, tag: int) -> None:
        if tag > self._confirmed:
            self._wire.confirm(tag, tag > self._confirmed + 1)
            self._confirmed = tag
