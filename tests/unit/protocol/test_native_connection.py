"""A connection of the native framing, both roles, without I/O."""

from collections.abc import Sequence
from typing import Any

import pytest

from leveret.protocol.errors import HardError
from leveret.protocol.native.connection import (
    FAILED,
    FRAME_OVERHEAD_BYTES,
    HANDSHAKE_FRAME_MAX_BYTES,
    ClientConnection,
    NativeConnection,
    ServerConnection,
    State,
)
from leveret.protocol.native.fields import TAG_MAX
from leveret.protocol.native.framing import MAGIC, FrameReader, encode
from leveret.protocol.native.layouts import FrameType, Role
from leveret.protocol.reply_codes import ReplyCode

ENTRY = ["", "q", 0, b"\0\0", b"body"]


def sent(connection: NativeConnection, sender: Role) -> list[list[Any]]:
    """What a connection wants to send, as frames."""
    reader = FrameReader(sender, 1 << 30)
    reader.feed(b"".join(connection.data_to_send()))
    frames = []
    while (frame := reader.next_frame()) is not None:
        frames.append(frame)
    return frames


def hello(client: ClientConnection, *, heartbeat_s: int = 60, frame_max: int = 0) -> bytes:
    client.hello("guest", "guest", "/", heartbeat_s=heartbeat_s, frame_max=frame_max, properties={})
    return b"".join(client.data_to_send())


def handshake(
    client_heartbeat_s: int = 60, **server_options: int
) -> tuple[ClientConnection, ServerConnection]:
    client, server = ClientConnection(), ServerConnection(**server_options)
    [event] = server.receive_data(hello(client, heartbeat_s=client_heartbeat_s))
    server.welcome(event, {"product": "test"})
    client.receive_data(b"".join(server.data_to_send()))
    return client, server


@pytest.fixture
def server() -> ServerConnection:
    """An open connection with channel 1."""
    _, server = handshake()
    receive(server, (FrameType.CHANNEL_OPEN, 1, 1))
    return server


def receive(connection: NativeConnection, *frames: tuple[Any, ...]) -> list[Sequence[Any]]:
    return connection.receive_data(b"".join(encode(*frame) for frame in frames))


def failure(events: list[Sequence[Any]]) -> HardError:
    assert events
    assert events[-1][0] == FAILED
    error = events[-1][1]
    assert isinstance(error, HardError)
    return error


class TestHandshake:
    def test_agrees_on_the_limits(self) -> None:
        client, server = handshake(message_max=1000, channel_max=10, heartbeat_s=30)
        assert client.state is server.state is State.OPEN
        assert client.frame_max == server.frame_max == 1000 + FRAME_OVERHEAD_BYTES
        assert client.message_max == 1000
        assert client.channel_max == 10
        assert client.heartbeat_s == server.heartbeat_s == 30

    @pytest.mark.parametrize(
        ("client_s", "server_s", "agreed_s"), [(0, 60, 60), (10, 60, 10), (60, 0, 60), (0, 0, 0)]
    )
    def test_the_shorter_heartbeat_wins_and_0_leaves_it_to_the_other(
        self, client_s: int, server_s: int, agreed_s: int
    ) -> None:
        client, server = handshake(client_s, heartbeat_s=server_s)
        assert client.heartbeat_s == server.heartbeat_s == agreed_s

    def test_a_client_that_asks_for_few_channels_gets_few(self) -> None:
        server = ServerConnection(channel_max=100)
        opening = MAGIC + encode(FrameType.HELLO, 0, 7, 0, "PLAIN", b"", "/")
        server.welcome(server.receive_data(opening)[0], {})
        assert server.channel_max == 7

    def test_a_client_that_cannot_take_every_message_is_refused(self) -> None:
        server = ServerConnection(message_max=1000)
        [event] = server.receive_data(hello(ClientConnection(), frame_max=1000))
        with pytest.raises(HardError, match="frame_max = 1000 is lower than") as caught:
            server.welcome(event, {})
        assert caught.value.reply_code is ReplyCode.NOT_ALLOWED

    def test_frames_before_the_welcome_must_be_short(self) -> None:
        server = ServerConnection()
        opening = MAGIC + (HANDSHAKE_FRAME_MAX_BYTES + 1).to_bytes(4, "big")
        assert failure(server.receive_data(opening)).reply_code is ReplyCode.FRAME_ERROR

    def test_another_frame_before_hello_is_refused(self) -> None:
        server = ServerConnection()
        events = server.receive_data(MAGIC + encode(FrameType.CHANNEL_OPEN, 1, 1))
        assert failure(events).reply_code is ReplyCode.UNEXPECTED_FRAME

    def test_nothing_may_follow_hello_before_the_welcome(self) -> None:
        server = ServerConnection()
        events = server.receive_data(hello(ClientConnection()) + encode(FrameType.CHANNEL_OPEN, 1, 1))
        assert events[0][0] == FrameType.HELLO
        assert failure(events).reply_code is ReplyCode.UNEXPECTED_FRAME

    def test_a_second_hello_is_refused(self, server: ServerConnection) -> None:
        events = receive(server, (FrameType.HELLO, 0, 0, 0, "PLAIN", b"", "/"))
        assert failure(events).reply_code is ReplyCode.UNEXPECTED_FRAME

    @pytest.mark.parametrize("opening", [b"LEVERET\x02", b"GET / HT", b"AMQP\0\0\x09\x01", b"X"])
    def test_a_server_answers_other_magic_with_its_own_and_is_done(self, opening: bytes) -> None:
        server = ServerConnection()
        assert failure(server.receive_data(opening)).reply_code is ReplyCode.NOT_IMPLEMENTED
        assert server.data_to_send() == [MAGIC]
        assert server.state is State.CLOSED

    @pytest.mark.parametrize(
        ("octets", "text"),
        [
            (b"LEVERET\x02", "speaks version 2"),
            (b"AMQP\0\0\x09\x01", "speaks AMQP only"),
            (b"HTTP/1.1 400", "does not speak the native framing"),
        ],
    )
    def test_a_client_understands_why_a_server_does_not_want_it(self, octets: bytes, text: str) -> None:
        client = ClientConnection()
        hello(client)
        events = client.receive_data(octets[:3]) or client.receive_data(octets[3:])
        assert text in failure(events).explanation

    def test_a_client_takes_nothing_but_welcome_first_and_only_once(self) -> None:
        client = ClientConnection()
        hello(client)
        events = receive(client, (FrameType.REPLY, 1))
        assert failure(events).reply_code is ReplyCode.UNEXPECTED_FRAME
        client, _ = handshake()
        assert (
            failure(receive(client, (FrameType.WELCOME, 1, 1, 0, 1))).reply_code is ReplyCode.UNEXPECTED_FRAME
        )


class TestChannels:
    def test_an_open_channel_lets_requests_through(self, server: ServerConnection) -> None:
        assert receive(server, (FrameType.QUEUE_PURGE, 2, 1, "q")) == [[FrameType.QUEUE_PURGE, 2, 1, "q"]]

    def test_a_request_on_a_channel_that_is_not_open_is_answered_with_504(
        self, server: ServerConnection
    ) -> None:
        assert receive(server, (FrameType.QUEUE_PURGE, 2, 9, "q"), (FrameType.QUEUE_PURGE, 0, 9, "q")) == []
        text = "CHANNEL_ERROR - channel 9 is not open"
        assert sent(server, Role.SERVER) == [[FrameType.ERROR, 2, 504, text, FrameType.QUEUE_PURGE]]

    @pytest.mark.parametrize("number", [0, 2048])
    def test_a_number_out_of_range_cannot_be_opened(self, server: ServerConnection, number: int) -> None:
        assert receive(server, (FrameType.CHANNEL_OPEN, 2, number)) == []
        assert sent(server, Role.SERVER)[0][:3] == [FrameType.ERROR, 2, 530]

    def test_a_channel_is_opened_once(self, server: ServerConnection) -> None:
        assert receive(server, (FrameType.CHANNEL_OPEN, 2, 1)) == []
        assert sent(server, Role.SERVER)[0][:3] == [FrameType.ERROR, 2, 504]

    def test_once_its_close_is_answered_a_number_can_be_opened_again_and_counts_from_1(
        self, server: ServerConnection
    ) -> None:
        receive(server, (FrameType.PUBLISH, 1, 1, [ENTRY, ENTRY]), (FrameType.CHANNEL_CLOSE, 2, 1))
        assert receive(server, (FrameType.CHANNEL_OPEN, 3, 1)) == []
        server.data_to_send()
        server.answer_channel_close(2, 1)
        events = receive(server, (FrameType.CHANNEL_OPEN, 4, 1), (FrameType.PUBLISH, 1, 1, [ENTRY]))
        assert [event[0] for event in events] == [FrameType.CHANNEL_OPEN, FrameType.PUBLISH]

    def test_publish_tags_have_no_gaps(self, server: ServerConnection) -> None:
        events = receive(
            server, (FrameType.PUBLISH, 1, 1, [ENTRY, ENTRY]), (FrameType.PUBLISH, 1, 3, [ENTRY])
        )
        assert events == [[FrameType.PUBLISH, 1, 1, [(("", "q", 0, b"\0\0"), [b"body"] * 3)]]]
        error = failure(receive(server, (FrameType.PUBLISH, 1, 5, [ENTRY])))
        assert error.explanation == "PUBLISH: publish_tag 5 on channel 1, 4 is next"

    def test_a_producers_publish_tags_begin_anywhere_and_rise(self, server: ServerConnection) -> None:
        opened = receive(server, (FrameType.CHANNEL_OPEN, 2, 7, True, b"me"))
        assert opened == [[FrameType.CHANNEL_OPEN, 2, 7, True, b"me", 0]]
        events = receive(
            server, (FrameType.PUBLISH, 7, 900, [ENTRY, ENTRY]), (FrameType.PUBLISH, 7, 950, [ENTRY])
        )
        assert [event[2] for event in events] == [900, 950]
        error = failure(receive(server, (FrameType.PUBLISH, 7, 950, [ENTRY])))
        assert error.explanation == "PUBLISH: publish_tag 950 on channel 7, 951 is next"

    def test_a_number_that_was_a_producers_counts_from_1_again(self, server: ServerConnection) -> None:
        receive(server, (FrameType.CHANNEL_OPEN, 2, 7, True, b"me"), (FrameType.CHANNEL_CLOSE, 3, 7))
        server.answer_channel_close(3, 7)
        receive(server, (FrameType.CHANNEL_OPEN, 4, 7))
        error = failure(receive(server, (FrameType.PUBLISH, 7, 2, [ENTRY])))
        assert error.explanation == "PUBLISH: publish_tag 2 on channel 7, 1 is next"

    def test_publish_tags_come_to_an_end(self, server: ServerConnection) -> None:
        receive(server, (FrameType.CHANNEL_OPEN, 2, 7, True, b"me"))
        error = failure(receive(server, (FrameType.PUBLISH, 7, TAG_MAX, [ENTRY])))
        assert error.explanation == "PUBLISH: no tag is left on channel 7"

    @pytest.mark.parametrize(
        ("confirm", "producer", "text"),
        [
            (False, b"me", "a producer needs a channel with confirm"),
            (True, bytes(65), "a producer's id of 65 octets is longer than 64"),
        ],
    )
    def test_a_producer_that_cannot_be(
        self, server: ServerConnection, confirm: bool, producer: bytes, text: str
    ) -> None:
        assert receive(server, (FrameType.CHANNEL_OPEN, 2, 7, confirm, producer)) == []
        assert sent(server, Role.SERVER) == [
            [FrameType.ERROR, 2, 406, f"PRECONDITION_FAILED - {text}", FrameType.CHANNEL_OPEN]
        ]
        assert receive(server, (FrameType.CHANNEL_OPEN, 3, 7)) != []

    def test_a_publish_on_a_channel_that_is_not_open_ends_the_connection(
        self, server: ServerConnection
    ) -> None:
        assert (
            failure(receive(server, (FrameType.PUBLISH, 2, 1, [ENTRY]))).reply_code is ReplyCode.CHANNEL_ERROR
        )

    def test_a_failed_channel_drops_frames_until_it_is_closed(self, server: ServerConnection) -> None:
        server.fail_channel(1, 406, "PRECONDITION_FAILED - too slow", FrameType.ACK)
        assert sent(server, Role.SERVER) == [
            [FrameType.CHANNEL_CLOSED, 1, 406, "PRECONDITION_FAILED - too slow", FrameType.ACK]
        ]
        assert receive(server, (FrameType.PUBLISH, 1, 1, [ENTRY]), (FrameType.ACK, 0, 1, [1])) == []
        assert receive(server, (FrameType.CHANNEL_OPEN, 2, 1), (FrameType.QUEUE_PURGE, 3, 1, "q")) == []
        assert [frame[:3] for frame in sent(server, Role.SERVER)] == [
            [FrameType.ERROR, 2, 504],
            [FrameType.ERROR, 3, 504],
        ]
        assert receive(server, (FrameType.CHANNEL_CLOSE, 4, 1)) == []
        assert sent(server, Role.SERVER) == [[FrameType.REPLY, 4, []]]
        assert receive(server, (FrameType.CHANNEL_OPEN, 5, 1)) == [
            [FrameType.CHANNEL_OPEN, 5, 1, True, b"", 0]
        ]

    def test_request_0_gets_no_answer(self, server: ServerConnection) -> None:
        server.answer(0, 1)
        server.answer_error(0, ReplyCode.NOT_FOUND, "no queue", FrameType.QUEUE_PURGE)
        assert sent(server, Role.SERVER) == []


class TestClose:
    def test_both_sides_agree_that_it_is_over(self) -> None:
        client, server = handshake()
        client.close(200, "")
        client.close(200, "again has no effect")
        events = server.receive_data(b"".join(client.data_to_send()))
        assert events == [[FrameType.CLOSE, 200, ""]]
        assert server.receive_data(encode(FrameType.PING)) == []
        server.answer_close()
        assert client.receive_data(b"".join(server.data_to_send())) == [[FrameType.CLOSED]]
        assert client.state is server.state is State.CLOSED

    def test_what_arrives_after_close_was_sent_does_not_count(self, server: ServerConnection) -> None:
        server.close(320, "CONNECTION_FORCED - bye")
        assert receive(server, (FrameType.PUBLISH, 1, 99, [ENTRY]), (FrameType.QUEUE_PURGE, 1, 1, "q")) == []
        assert receive(server, (FrameType.CLOSED,)) == [[FrameType.CLOSED]]

    def test_both_may_close_at_once(self, server: ServerConnection) -> None:
        server.close(320, "")
        assert receive(server, (FrameType.CLOSE, 200, "")) == [[FrameType.CLOSE, 200, ""]]
        server.answer_close()
        assert server.state is State.CLOSED

    def test_garbage_after_close_ends_the_wait(self, server: ServerConnection) -> None:
        server.close(501, "")
        assert server.receive_data(b"\xff" * 8) == []
        assert server.state is State.CLOSED
        assert server.receive_data(b"more") == []

    def test_closed_out_of_nowhere_is_refused(self, server: ServerConnection) -> None:
        assert failure(receive(server, (FrameType.CLOSED,))).reply_code is ReplyCode.UNEXPECTED_FRAME

    def test_events_before_a_fault_are_not_lost(self, server: ServerConnection) -> None:
        events = receive(server, (FrameType.QUEUE_PURGE, 2, 1, "q"), (0x7F,))
        assert [event[0] for event in events] == [FrameType.QUEUE_PURGE, FAILED]

    def test_the_end_of_the_stream_is_a_failure_unless_a_close_went_before(
        self, server: ServerConnection
    ) -> None:
        client, _ = handshake()
        assert failure(server.receive_eof()).reply_code is ReplyCode.CONNECTION_FORCED
        client.close(200, "")
        assert client.receive_eof() == []
        assert client.state is State.CLOSED


class TestHeartbeats:
    def test_a_ping_is_answered_and_not_shown(self, server: ServerConnection) -> None:
        server.data_to_send()
        assert receive(server, (FrameType.PING,), (FrameType.PONG,)) == []
        assert sent(server, Role.SERVER) == [[FrameType.PONG]]

    def test_a_side_that_has_sent_nothing_for_half_the_interval_pings(self) -> None:
        client, _ = handshake(client_heartbeat_s=8)
        client.data_to_send()
        assert client.tick(100.0)
        assert client.next_deadline(100.0) == 102.0
        assert client.tick(103.9)
        assert client.data_to_send() == []
        assert client.tick(104.0)
        assert sent(client, Role.CLIENT) == [[FrameType.PING]]

    def test_what_was_sent_since_puts_the_ping_off(self) -> None:
        client, _ = handshake(client_heartbeat_s=8)
        client.data_to_send()
        client.tick(100.0)
        client.send(FrameType.QUEUE_PURGE, 1, 1, "q")
        client.data_to_send()
        client.tick(103.0)
        client.tick(106.0)
        assert client.data_to_send() == []
        client.tick(107.0)
        assert sent(client, Role.CLIENT) == [[FrameType.PING]]

    def test_silence_for_the_whole_interval_is_death(self) -> None:
        client, _ = handshake(client_heartbeat_s=8)
        assert client.tick(100.0)
        assert client.tick(107.9)
        assert not client.tick(108.0)

    def test_any_octet_is_life(self) -> None:
        client, _ = handshake(client_heartbeat_s=8)
        client.tick(100.0)
        client.receive_data(b"\0")
        assert client.tick(107.0)
        assert client.tick(114.9)
        assert not client.tick(115.0)

    def test_a_peer_that_is_not_read_is_not_dead(self) -> None:
        client, _ = handshake(client_heartbeat_s=8)
        client.tick(100.0)
        client.excuse_silence()
        assert client.tick(200.0)

    def test_without_heartbeats_nobody_dies(self) -> None:
        client, _ = handshake(0, heartbeat_s=0)
        client.data_to_send()
        assert client.tick(0.0)
        assert client.tick(1e9)
        assert client.next_deadline(0.0) is None
        assert client.data_to_send() == []
