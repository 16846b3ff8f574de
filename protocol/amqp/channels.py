"""The channels of a `ServerConnection`: which are open, and what their frames add up to.

A channel number is unopened (absent from `states`), OPEN, CONTENT (between the frames of a publish) or
CLOSING: we sent channel.close, and everything is swallowed until the peer's close-ok (0-9-1 section 1.5.2.5).

Raises `HardError` for frames that are wrong in a channel's state; texts and codes are RabbitMQ's.
"""

from enum import Enum

from ..errors import AmqpError, HardError, SoftError
from ..reply_codes import ReplyCode
from .events import ACK, CHANNEL_FAILED, METHOD, PUBLISH, Event
from .frames import BODY_FRAME, CLASS_BASIC, CONTENT_HEADER, HEADER_FRAME, METHOD_FRAME, method_frame
from .methods import (
    BasicAck,
    BasicPublish,
    ChannelClose,
    ChannelCloseOk,
    ChannelOpen,
    decode_method,
)
from .wire_types import Method

PublishArguments = tuple[str, str, bool, bool]
"""exchange, routing key, mandatory, immediate"""

_ARGUMENTS_CACHE_MAX = 1024  # entries


class ChannelState(Enum):
    OPEN = "open"
    CONTENT = "content"
    CLOSING = "closing"


class _Content:
    """A publish whose frames have not all come."""

    __slots__ = ("arguments", "body", "properties", "size")

    def __init__(self, arguments: PublishArguments) -> None:
        self.arguments = arguments
        self.properties: bytes | None = None  # None until the content header has come
        self.size = 0
        self.body = bytearray()


class Channels:
    """Made by its connection."""

    def __init__(self, message_size_max_bytes: int, out: list[bytes]) -> None:
        self.states: dict[int, ChannelState] = {}
        self.count_max = 0  # negotiated; 0 means no limit
        self.message_size_max_bytes = message_size_max_bytes
        self._out = out
        self._contents: dict[int, _Content] = {}
        self._arguments: dict[bytes, PublishArguments] = {}

    @property
    def is_receiving_content(self) -> bool:
        """Some channel is between the frames of a publish."""
        return bool(self._contents)

    def receive(self, channel_id: int, frame_type: int, payload: bytes) -> Event | None:
        """One frame of a channel; returns what it completes."""
        state = self.states.get(channel_id)
        if state is ChannelState.CLOSING:
            self._receive_closing(channel_id, frame_type, payload)
            return None
        if state is ChannelState.CONTENT:
            return self._receive_content(channel_id, frame_type, payload)
        if frame_type != METHOD_FRAME:
            text = "expected method frame, got non method frame instead"
            raise HardError(ReplyCode.UNEXPECTED_FRAME, text)
        method = decode_method(payload)
        try:
            return self._receive_method(channel_id, state, method)
        except HardError as error:
            error.method = method.ids
            raise

    def close(self, channel_id: int, error: AmqpError) -> None:
        """Send channel.close; the channel is silent until the peer has confirmed it."""
        self._swallow(channel_id)
        class_id, method_id = error.method
        close = ChannelClose(
            reply_code=error.reply_code, reply_text=error.reply_text, class_id=class_id, method_id=method_id
        )
        self._out.append(method_frame(channel_id, close))

    def clear(self) -> None:
        """The connection is ending."""
        self.states.clear()
        self._contents.clear()

    def publish_arguments(self, payload: bytes) -> PublishArguments:
        """The arguments of a basic.publish payload. They repeat, so decoded ones are kept."""
        arguments = self._arguments.get(payload)
        if arguments is None:
            method = decode_method(payload)
            assert isinstance(method, BasicPublish)
            arguments = (method.exchange, method.routing_key, method.mandatory, method.immediate)
            if len(self._arguments) >= _ARGUMENTS_CACHE_MAX:
                self._arguments.clear()
            self._arguments[payload] = arguments
        return arguments

    def _receive_method(self, channel_id: int, state: ChannelState | None, method: Method) -> Event | None:
        match method:
            case ChannelOpen():
                if state is not None:
                    raise HardError(ReplyCode.CHANNEL_ERROR, "second 'channel.open' seen")
                self._open(channel_id)
            case ChannelCloseOk() if state is None:
                return None  # the peer closed the channel in the same moment as we did
            case _ if state is None:
                raise HardError(ReplyCode.CHANNEL_ERROR, "expected 'channel.open'")
            case BasicPublish():
                arguments = (method.exchange, method.routing_key, method.mandatory, method.immediate)
                self._contents[channel_id] = _Content(arguments)
                self.states[channel_id] = ChannelState.CONTENT
                return None
            case BasicAck():
                return (ACK, channel_id, method.delivery_tag, method.multiple)
            case ChannelClose():
                del self.states[channel_id]
        return (METHOD, channel_id, method)

    def _open(self, channel_id: int) -> None:
        count, limit = len(self.states), self.count_max
        if limit and count >= limit:
            raise HardError(
                ReplyCode.NOT_ALLOWED,
                f"number of channels opened ({count}) has reached the negotiated channel_max ({limit})",
            )
        self.states[channel_id] = ChannelState.OPEN

    def _receive_closing(self, channel_id: int, frame_type: int, payload: bytes) -> None:
        if frame_type != METHOD_FRAME:
            return
        ids = payload[:4]
        if ids == _CLOSE_OK:
            del self.states[channel_id]
        elif ids == _CLOSE:  # sent before the peer saw ours; its close-ok may still come, or never
            self._out.append(method_frame(channel_id, ChannelCloseOk()))
            del self.states[channel_id]

    def _receive_content(self, channel_id: int, frame_type: int, payload: bytes) -> Event | None:
        content = self._contents[channel_id]
        if content.properties is None:
            if frame_type != HEADER_FRAME:
                raise _unexpected_frame(
                    f"expected content header for class {CLASS_BASIC}, got non content header frame instead"
                )
            error = self._read_header(content, payload)
            if error is not None:
                self._swallow(channel_id)
                return (CHANNEL_FAILED, channel_id, error)
        else:
            if frame_type != BODY_FRAME:
                raise _unexpected_frame("expected content body, got non content body frame instead")
            content.body += payload
            if len(content.body) > content.size:
                raise _unexpected_frame("the body is longer than its header says")
        if len(content.body) < content.size:
            return None
        del self._contents[channel_id]
        self.states[channel_id] = ChannelState.OPEN
        return (PUBLISH, channel_id, *content.arguments, content.properties, [bytes(content.body)])

    def _read_header(self, content: _Content, payload: bytes) -> SoftError | None:
        """Fills in the content; returns why it is refused, if it is."""
        if len(payload) < CONTENT_HEADER.size:
            raise HardError(ReplyCode.SYNTAX_ERROR, "a content header is cut off", BasicPublish.ids)
        class_id, _, size = CONTENT_HEADER.unpack_from(payload)
        if class_id != CLASS_BASIC:
            raise _unexpected_frame(
                f"expected content header for class {CLASS_BASIC}, got one for class {class_id} instead"
            )
        content.properties = payload[CONTENT_HEADER.size :]
        content.size = size
        if size > self.message_size_max_bytes:
            return SoftError(
                ReplyCode.PRECONDITION_FAILED,
                f"message size {size} is larger than configured max size {self.message_size_max_bytes}",
                BasicPublish.ids,
            )
        return None

    def _swallow(self, channel_id: int) -> None:
        self._contents.pop(channel_id, None)
        self.states[channel_id] = ChannelState.CLOSING


_CLOSE = bytes((0, 20, 0, 40))
_CLOSE_OK = bytes((0, 20, 0, 41))


def _unexpected_frame(what: str) -> HardError:
    """Something else than the content of a publish."""
    return HardError(ReplyCode.UNEXPECTED_FRAME, what, BasicPublish.ids)
