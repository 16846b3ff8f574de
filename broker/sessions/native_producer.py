"""A channel of a native connection that publishes for a producer (docs/native-protocol.md section 7.1)."""

from typing import TYPE_CHECKING, Any

from leveret.protocol.errors import AmqpError, SoftError
from leveret.protocol.native.connection import ServerConnection
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

    def publish(self, publish_tag: int, messages: list[list[Any]]) -> None:
        """PUBLISH: what was accepted before is only answered."""
        if not messages:
            return
        channel = self.channel
        channel.go_on_at(publish_tag)
        again = max(0, channel.last_tag - publish_tag + 1)
        for tag, message in enumerate(messages[:again], publish_tag):
            self._publish_again(tag, message)
        if again < len(messages):
            self._publish_new(publish_tag + again, messages[again:] if again else messages)

    def _publish_again(self, tag: int, message: list[Any]) -> None:
        known = self.channel.recall(tag)
        if known is Known.NOTHING:
            self._publish_new(tag, [message])
        elif known is Known.FORGOTTEN:
            self.channel.skip_publish()
            self._refuse(tag, _too_late(tag))
        else:
            self.channel.answer_again(known)

    def _publish_new(self, first_tag: int, messages: list[list[Any]]) -> None:
        outcomes = self._outcomes
        outcomes.clear()
        try:
            super().publish(first_tag, messages)
        finally:  # what went through before a bug is not forgotten
            self.channel.took(first_tag, outcomes)

    def _refuse_publish(self, tag: int, error: AmqpError) -> None:
        self._refuse(tag, error)
        self._outcomes.append(REFUSED)


def _too_late(tag: int) -> SoftError:
    text = f"publish tag {tag} is more than {WINDOW} behind: nobody knows whether it was accepted"
    return SoftError(ReplyCode.PRECONDITION_FAILED, text)
