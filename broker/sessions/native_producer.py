"""A channel of a native connection that publishes for a producer (docs/native-protocol.md section 7.1)."""

from typing import TYPE_CHECKING

from leveret.protocol.errors import AmqpError, SoftError
from leveret.protocol.native.connection import ServerConnection
from leveret.protocol.native.publishes import Header, Run
from leveret.protocol.reply_codes import ReplyCode

from ..channels.producer_channel import Known, ProducerChannel
from ..channels.producers import WINDOW
from ..queues.delivery import REFUSED, Outcome
from .native_channel import NativeChannel

if TYPE_CHECKING:
    from .native_session import NativeSession


class NativeProducerChannel(NativeChannel):
    """Made by `NativeSession`."""

    channel: ProducerChannel

    def __init__(self, session: "NativeSession", protocol: ServerConnection, number: int) -> None:
        super().__init__(session, protocol, number)
        self._outcomes: list[Outcome] = []  # of the publishes of the frame that is being executed
        self._note = self._outcomes.extend

    def publish(self, first_tag: int, runs: list[Run]) -> None:
        """PUBLISH: what was accepted before is only answered."""
        if runs:
            self.channel.go_on_at(first_tag)
            super().publish(first_tag, runs)

    def _publish_run(self, first_tag: int, header: Header, bodies: list[bytes]) -> None:
        channel = self.channel
        again = max(0, channel.last_tag - first_tag + 1)
        for tag, body in enumerate(bodies[:again], first_tag):
            self._publish_again(tag, header, body)
        if again < len(bodies):
            self._publish_new(first_tag + again, header, bodies[again:] if again else bodies)

    def _publish_again(self, tag: int, header: Header, body: bytes) -> None:
        known = self.channel.recall(tag)
        if known is Known.NOTHING:
            self._publish_new(tag, header, [body])
        elif known is Known.FORGOTTEN:
            self.channel.skip_publish()
            self._refuse(tag, _too_late(tag))
        else:
            self.channel.answer_again(known)

    def _publish_new(self, first_tag: int, header: Header, bodies: list[bytes]) -> None:
        outcomes = self._outcomes
        outcomes.clear()
        try:
            super()._publish_run(first_tag, header, bodies)
        finally:  # what went through before a bug is not forgotten
            self.channel.took(first_tag, outcomes)

    def _refuse_publish(self, tag: int, error: AmqpError) -> None:
        self._refuse(tag, error)
        self._outcomes.append(REFUSED)


def _too_late(tag: int) -> SoftError:
    text = f"publish tag {tag} is more than {WINDOW} behind: nobody knows whether it was accepted"
    return SoftError(ReplyCode.PRECONDITION_FAILED, text)
