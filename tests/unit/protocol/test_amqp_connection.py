"""The server's AMQP connection: handshake, channels, content, errors, the end, heartbeats."""

from collections.abc import Iterator
from typing import ClassVar

import pytest
from amqp_peer import (
    FRAME_MAX,
    LOGIN,
    MESSAGE_SIZE_MAX,
    PERSISTENT,
    Content,
    Heartbeat,
    answer_all,
    answers,
    new_connection,
    one_by_one,
    publish,
    running_connection,
    tune_ok,
    vhost_open,
)

from leveret.protocol.amqp import methods
from leveret.protocol.amqp.connection import PROTOCOL_HEADER, ServerConnection
from leveret.protocol.amqp.events import (
    ACK,
    CHANNEL_FAILED,
    CLOSE,
    CLOSE_OK,
    FAILED,
    METHOD,
    OPEN,
    PUBLISH,
    START_OK,
    Event,
)
from leveret.protocol.amqp.frames import (
    BODY_FRAME,
    CONTENT_HEADER,
    HEADER_FRAME,
    HEARTBEAT_FRAME,
    HEARTBEAT_OCTETS,
    METHOD_FRAME,
    build_frame,
    content_frames,
    method_frame,
)
from leveret.protocol.amqp.wire_types import METHODS, Method
from leveret.protocol.errors import HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode

NOT_FOUND = SoftError(ReplyCode.NOT_FOUND, "no queue 'q' in vhost '/'", methods.QueueBind.ids)


def feed(connection: ServerConnection, *pieces: bytes) -> list[Event]:
    return [event for piece in pieces for event in one_by_one(connection.receive_data(piece))]


def failure(connection: ServerConnection, *pieces: bytes) -> str:
    """Feed; the last event must be a failure; returns its code and text."""
    event = feed(connection, *pieces)[-1]
    assert event[0] == FAILED
    assert isinstance(event[1], HardError)
    return str(event[1])


class TestHandshake:
    def test_from_protocol_header_to_open_ok(self) -> None:
        connection = new_connection()
        events = answer_all(connection, [LOGIN + tune_ok() + vhost_open("stage")])
        assert events == [(START_OK, "PLAIN", b"\0guest\0guest", {}), (OPEN, "stage")]
        start, tune, open_ok = (method for _, method in answers(connection.data_to_send()))
        assert start == methods.ConnectionStart(
            server_properties={"product": "test"}, mechanisms=b"PLAIN AMQPLAIN", locales=b"en_US"
        )
        assert tune == methods.ConnectionTune(channel_max=2047, frame_max=FRAME_MAX, heartbeat=60)
        assert open_ok == methods.ConnectionOpenOk()

    def test_the_header_of_0_9_will_do(self) -> None:
        connection = new_connection()
        feed(connection, b"AMQP\x01\x01\x00\x09")
        assert len(answers(connection.data_to_send())) == 1

    @pytest.mark.parametrize(
        "data",
        [
            b"AMQP\x00\x01\x00\x00",
            b"AMQP\x03\x01\x00\x00",
            b"AMQP\x00\x00\x09\x02 and more",
            b"GET / HTTP/1.1\r\n\r\n",
            b"G",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ],
    )
    def test_another_header_is_answered_with_ours_and_nothing_else(self, data: bytes) -> None:
        connection = new_connection()
        assert feed(connection, data, data) == []
        assert connection.data_to_send() == [PROTOCOL_HEADER]
        assert connection.is_closed

    @pytest.mark.parametrize("length", range(1, 8))
    def test_the_beginning_of_a_header_is_waited_for(self, length: int) -> None:
        connection = new_connection()
        feed(connection, PROTOCOL_HEADER[:length])
        assert not connection.data_to_send()
        feed(connection, PROTOCOL_HEADER[length:])
        assert len(answers(connection.data_to_send())) == 1

    @pytest.mark.parametrize(
        ("answer", "text"),
        [
            (tune_ok(frame_max=4095), "frame_max = 4095 is lower than the minimum allowed value (4096)"),
            (
                tune_ok(frame_max=131073),
                "frame_max = 131073 is higher than the maximum allowed value (131072)",
            ),
            (
                tune_ok(frame_max=0),
                "frame_max = 0 (no limit) is higher than the maximum allowed value (131072)",
            ),
            (tune_ok(channel_max=2048), "channel_max = 2048 is higher than the maximum allowed value (2047)"),
            (
                tune_ok(channel_max=0),
                "channel_max = 0 (no limit) is higher than the maximum allowed value (2047)",
            ),
        ],
    )
    def test_what_may_not_be_negotiated(self, answer: bytes, text: str) -> None:
        connection = new_connection()
        event = answer_all(connection, [LOGIN, answer])[-1]
        assert str(event[1]) == f"530 NOT_ALLOWED - negotiated {text}"
        assert event[1].method == methods.ConnectionTuneOk.ids

    def test_a_frame_above_4096_before_tuning_is_refused(self) -> None:
        connection = new_connection()
        long_login = method_frame(0, methods.ConnectionStartOk(response=bytes(4100)))
        text = failure(connection, PROTOCOL_HEADER, long_login[:8])
        assert text == "501 FRAME_ERROR - type 1, all octets = <<>>: {frame_too_large,4124,4088}"

    def test_frames_on_a_channel_before_open(self) -> None:
        text = failure(new_connection(), PROTOCOL_HEADER + method_frame(1, methods.TxSelect()))
        assert text == "505 UNEXPECTED_FRAME - type 1, all octets = <<0,90,0,10>>"


class TestStates:
    """Every method on channel 0 in every state leads to its event or to 504."""

    @staticmethod
    def reach(state: str) -> ServerConnection:
        connection = new_connection()
        steps = {"starting": PROTOCOL_HEADER, "tuning": LOGIN, "opening": LOGIN + tune_ok()}
        answer_all(connection, [steps.get(state, LOGIN + tune_ok() + vhost_open())])
        return connection

    LEGAL: ClassVar[dict[str, dict[type[Method], int | None]]] = {
        "starting": {methods.ConnectionStartOk: START_OK},
        "tuning": {methods.ConnectionTuneOk: None},
        "opening": {methods.ConnectionOpen: OPEN},
        "running": {methods.ConnectionUpdateSecret: METHOD},
    }

    @pytest.mark.parametrize("state", LEGAL)
    @pytest.mark.parametrize("ids", sorted(METHODS), ids=lambda ids: METHODS[ids].name)
    def test_state_and_method(self, state: str, ids: tuple[int, int]) -> None:
        connection = self.reach(state)
        method = sample(METHODS[ids])
        events = feed(connection, method_frame(0, method))
        legal = self.LEGAL[state] | {methods.ConnectionClose: CLOSE}
        if type(method) in legal:
            expected = legal[type(method)]
            assert [event[0] for event in events] == ([] if expected is None else [expected])
        else:
            ((kind, error),) = events
            assert kind == FAILED
            assert str(error) == f"504 CHANNEL_ERROR - unexpected method in connection state {state}"
            assert error.method == ids

    @pytest.mark.parametrize("state", LEGAL)
    def test_a_heartbeat_is_legal_everywhere(self, state: str) -> None:
        assert feed(self.reach(state), HEARTBEAT_OCTETS) == []

    @pytest.mark.parametrize("state", LEGAL)
    @pytest.mark.parametrize("frame_type", [HEADER_FRAME, BODY_FRAME])
    def test_content_on_channel_0_never_is(self, state: str, frame_type: int) -> None:
        text = failure(self.reach(state), build_frame(frame_type, 0, b"ab"))
        assert text == f"505 UNEXPECTED_FRAME - type {frame_type}, all octets = <<97,98>>"


def sample(cls: type[Method]) -> Method:
    """A method with some value in each field."""
    values = {"tune": {"channel_max": 10, "frame_max": 4096, "heartbeat": 0}}
    numbers = ("reply_code", "message_count", "consumer_count", "delivery_tag", *values["tune"])
    arguments: dict[str, object] = {name: 1 for name, _ in cls.layout if name in numbers}
    arguments |= {name: values["tune"][name] for name, _ in cls.layout if name in values["tune"]}
    arguments |= {name: b"s" for name, _ in cls.layout if name in ("challenge", "response", "new_secret")}
    strings = (
        "reason",
        "exchange",
        "routing_key",
        "destination",
        "source",
        "queue",
        "consumer_tag",
        "reply_text",
    )
    arguments |= {name: "s" for name, _ in cls.layout if name in strings}
    arguments |= {name: True for name, _ in cls.layout if name in ("active", "requeue")}
    return cls(**arguments)


class TestFraming:
    @pytest.mark.parametrize(
        ("frame", "text"),
        [
            (
                build_frame(METHOD_FRAME, 1, b"\x00\x3c\x00\x50")[:-1] + b"\xcd",
                "type 1, all octets = <<0,60,0,80>>: {invalid_frame_end_marker,205}",
            ),
            (build_frame(0, 1, b"abc"), "type 0, all octets = <<97,98,99>>: unknown_frame"),
            (
                build_frame(4, 1, bytes(range(17))),
                "type 4, first 16 octets = <<0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15>>: unknown_frame",
            ),
            (
                build_frame(BODY_FRAME, 1, bytes(FRAME_MAX + 1))[:8],
                "type 3, all octets = <<>>: {frame_too_large,131073,131064}",
            ),
        ],
    )
    def test_broken_framing_is_501_and_the_end_of_reading(self, frame: bytes, text: str) -> None:
        connection = running_connection(1)
        assert failure(connection, frame) == f"501 FRAME_ERROR - {text}"
        connection.send_close(HardError(ReplyCode.FRAME_ERROR, "x"))
        assert feed(connection, method_frame(0, methods.ConnectionCloseOk())) == []
        assert connection.is_deaf

    def test_a_payload_of_frame_max_is_tolerated(self) -> None:
        connection = running_connection(1)
        method = method_frame(1, methods.BasicPublish())
        header = build_frame(HEADER_FRAME, 1, CONTENT_HEADER.pack(60, 0, FRAME_MAX) + PERSISTENT)
        (event,) = feed(connection, method + header + build_frame(BODY_FRAME, 1, bytes(FRAME_MAX)))
        assert event[0] == PUBLISH

    def test_a_heartbeat_on_a_channel_is_505(self) -> None:
        text = failure(running_connection(1), build_frame(HEARTBEAT_FRAME, 1, b""))
        assert text == "505 UNEXPECTED_FRAME - type 8, all octets = <<>>"


class TestChannels:
    def test_open_method_close_and_open_again(self) -> None:
        connection = running_connection()
        opened, selected, closed = (
            methods.ChannelOpen(),
            methods.TxSelect(),
            methods.ChannelClose(reply_code=200),
        )
        frames = [method_frame(5, method) for method in (opened, selected, closed, opened)]
        assert feed(connection, *frames) == [
            (METHOD, 5, opened),
            (METHOD, 5, selected),
            (METHOD, 5, closed),
            (METHOD, 5, opened),
        ]

    def test_a_method_on_an_unopened_channel(self) -> None:
        for method in (
            methods.TxSelect(),
            methods.ChannelClose(reply_code=200),
            methods.BasicAck(delivery_tag=1),
        ):
            event = feed(running_connection(1), method_frame(2, method))[-1]
            assert str(event[1]) == "504 CHANNEL_ERROR - expected 'channel.open'"
            assert event[1].method == method.ids

    def test_content_on_an_unopened_channel(self) -> None:
        text = failure(running_connection(1), build_frame(BODY_FRAME, 2, b"x"))
        assert text == "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead"

    def test_a_second_open(self) -> None:
        text = failure(running_connection(1), method_frame(1, methods.ChannelOpen()))
        assert text == "504 CHANNEL_ERROR - second 'channel.open' seen"

    def test_a_close_ok_that_nobody_waits_for_is_ignored(self) -> None:
        assert feed(running_connection(1), method_frame(2, methods.ChannelCloseOk())) == []

    def test_more_channels_than_negotiated(self) -> None:
        connection = new_connection()
        answer_all(connection, [LOGIN + tune_ok(channel_max=2) + vhost_open()])
        frames = [method_frame(number, methods.ChannelOpen()) for number in (1, 2, 3)]
        text = failure(connection, *frames)
        assert text == (
            "530 NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"
        )

    def test_a_channel_we_closed_swallows_everything_until_close_ok(self) -> None:
        connection = running_connection(1, 2)
        connection.close_channel(1, NOT_FOUND)
        ((number, close),) = answers(connection.data_to_send())
        assert number == 1
        assert close == methods.ChannelClose(
            reply_code=404, reply_text="NOT_FOUND - no queue 'q' in vhost '/'", class_id=50, method_id=20
        )
        noise = publish(1, b"x") + method_frame(1, methods.TxSelect()) + build_frame(BODY_FRAME, 1, b"y")
        noise += build_frame(METHOD_FRAME, 1, b"not a method") + method_frame(1, methods.ChannelOpen())
        assert feed(connection, noise) == []
        assert [event[0] for event in feed(connection, publish(2, b"x"))] == [PUBLISH]
        again = method_frame(1, methods.ChannelCloseOk()) + method_frame(1, methods.ChannelOpen())
        assert feed(connection, again, publish(1, b"x"))[-1][0] == PUBLISH

    def test_a_channel_closed_between_two_events_is_silent_from_the_next_frame(self) -> None:
        connection = running_connection(1)
        seen = []
        for event in connection.receive_data(publish(1, b"1") + publish(1, b"22") + publish(1, b"333")):
            seen += event[-1]
            if event[-1] == [b"22"]:
                connection.close_channel(1, NOT_FOUND)
        assert seen == [b"1", b"22"]

    def test_a_channel_closed_in_the_middle_of_a_content(self) -> None:
        connection = running_connection(1)
        frames = publish(1, bytes(100))
        feed(connection, frames[:-50])
        connection.close_channel(1, NOT_FOUND)
        assert feed(connection, frames[-50:]) == []
        reopened = method_frame(1, methods.ChannelCloseOk()) + method_frame(1, methods.ChannelOpen())
        assert feed(connection, reopened, publish(1, b"new"))[-1][-1] == b"new"

    def test_both_sides_close_a_channel_at_once(self) -> None:
        connection = running_connection(1)
        connection.close_channel(1, NOT_FOUND)
        connection.data_to_send()
        closed = method_frame(1, methods.ChannelClose(reply_code=200))
        assert feed(connection, closed) == []
        assert answers(connection.data_to_send()) == [(1, methods.ChannelCloseOk())]
        close_ok_and_open = method_frame(1, methods.ChannelCloseOk()) + method_frame(1, methods.ChannelOpen())
        assert feed(connection, close_ok_and_open) == [(METHOD, 1, methods.ChannelOpen())]


class TestContent:
    def test_a_publish_in_one_piece(self) -> None:
        connection = running_connection(1)
        frames = publish(1, b"body", exchange="e", routing_key="k", mandatory=True)
        assert feed(connection, frames) == [(PUBLISH, 1, "e", "k", True, False, PERSISTENT, b"body")]

    @pytest.mark.parametrize("size", [0, 1, 4088, 4089, 8176, 8177, 272179, MESSAGE_SIZE_MAX])
    @pytest.mark.parametrize("frame_max", [4096, FRAME_MAX])
    def test_bodies_of_many_sizes(self, size: int, frame_max: int) -> None:
        connection = running_connection(1, frame_max=frame_max)
        body = bytes(index % 251 for index in range(size))
        frames = publish(1, body, frame_max=frame_max) * 2
        assert feed(connection, frames) == [(PUBLISH, 1, "", "q", False, False, PERSISTENT, body)] * 2

    def test_contents_of_two_channels_may_mix(self) -> None:
        connection = running_connection(1, 2)
        events = []
        first, second = publish(1, bytes(10_000), frame_max=4096), publish(2, b"2" * 10_000, frame_max=4096)
        for one, two in zip(frames_of(first), frames_of(second), strict=True):
            events += feed(connection, one + two)
        assert [(event[1], event[-1]) for event in events] == [(1, bytes(10_000)), (2, b"2" * 10_000)]

    def test_empty_body_frames_are_harmless(self) -> None:
        connection = running_connection(1)
        *start, body = frames_of(publish(1, b"body"))
        (event,) = feed(connection, *start, build_frame(BODY_FRAME, 1, b""), body)
        assert event[-1] == b"body"

    @pytest.mark.parametrize(
        ("wrong", "text"),
        [
            (method_frame(1, methods.TxSelect()), "non content header frame"),
            (build_frame(BODY_FRAME, 1, b"x"), "non content header frame"),
            (build_frame(HEADER_FRAME, 1, CONTENT_HEADER.pack(50, 0, 0) + b"\0\0"), "one for class 50"),
        ],
    )
    def test_something_else_than_a_header(self, wrong: bytes, text: str) -> None:
        connection = running_connection(1)
        assert (
            failure(connection, method_frame(1, methods.BasicPublish()) + wrong)
            == f"505 UNEXPECTED_FRAME - expected content header for class 60, got {text} instead"
        )

    def test_a_header_cut_off(self) -> None:
        wrong = method_frame(1, methods.BasicPublish()) + build_frame(HEADER_FRAME, 1, b"\0\x3c")
        assert failure(running_connection(1), wrong).startswith("502 SYNTAX_ERROR")

    @pytest.mark.parametrize(
        "wrong", [method_frame(1, methods.TxSelect()), content_frames(1, b"\0\0", b"", 4096)]
    )
    def test_something_else_than_a_body(self, wrong: bytes) -> None:
        method, header, _ = frames_of(publish(1, b"body"))
        text = failure(running_connection(1), method + header + wrong)
        assert text == "505 UNEXPECTED_FRAME - expected content body, got non content body frame instead"

    def test_a_body_longer_than_announced(self) -> None:
        method, header, _ = frames_of(publish(1, b"body"))
        text = failure(running_connection(1), method + header + build_frame(BODY_FRAME, 1, b"bodyX"))
        assert text.startswith("505 UNEXPECTED_FRAME")

    def test_a_body_frame_where_a_method_belongs(self) -> None:
        text = failure(running_connection(1), publish(1, b"x") + build_frame(BODY_FRAME, 1, b"y"))
        assert text == "505 UNEXPECTED_FRAME - expected method frame, got non method frame instead"

    def test_a_body_above_the_limit_fails_its_channel_before_it_is_collected(self) -> None:
        connection = running_connection(1, 2)
        frames = publish(1, bytes(MESSAGE_SIZE_MAX + 1))
        method, header, *bodies = frames_of(frames)
        ((kind, number, error),) = feed(connection, method + header)
        assert (kind, number) == (CHANNEL_FAILED, 1)
        assert isinstance(error, SoftError)
        assert str(error) == (
            "406 PRECONDITION_FAILED - message size 1048577 is larger than configured max size 1048576"
        )
        connection.close_channel(1, error)
        assert feed(connection, *bodies) == []
        assert feed(connection, publish(2, b"x"))[-1][0] == PUBLISH

    def test_undecodable_publish_arguments(self) -> None:
        frames = publish(1, b"x", routing_key="key").replace(b"\x03key", b"\x03\xff\xff\xff")
        connection = running_connection(1)
        assert failure(connection, frames).startswith("502 SYNTAX_ERROR")

    def test_an_ack(self) -> None:
        frame = method_frame(1, methods.BasicAck(delivery_tag=2**63, multiple=True))
        assert feed(running_connection(1), frame) == [(ACK, 1, 2**63, True)]


def frames_of(data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        end = position + 8 + int.from_bytes(data[position + 3 : position + 7], "big")
        yield data[position:end]
        position = end


class TestTheEnd:
    def test_the_peer_closes(self) -> None:
        connection = running_connection(1)
        close = method_frame(0, methods.ConnectionClose(reply_code=200, reply_text="bye"))
        assert feed(connection, close + publish(1, b"too late")) == [(CLOSE, 200, "bye")]
        assert not connection.is_closed
        connection.close_ok()
        assert answers(connection.data_to_send()) == [(0, methods.ConnectionCloseOk())]
        assert connection.is_closed

    def test_we_close_and_wait_for_close_ok(self) -> None:
        connection = running_connection(1)
        connection.send_close(HardError(ReplyCode.CONNECTION_FORCED, "reason", (60, 40)))
        assert answers(connection.data_to_send()) == [
            (
                0,
                methods.ConnectionClose(
                    reply_code=320, reply_text="CONNECTION_FORCED - reason", class_id=60, method_id=40
                ),
            )
        ]
        noise = publish(1, b"x") + method_frame(0, methods.ConnectionOpen()) + build_frame(77, 3, b"?")
        assert feed(connection, noise) == []
        assert not connection.is_closed
        assert feed(connection, method_frame(0, methods.ConnectionCloseOk())) == [(CLOSE_OK,)]
        assert connection.is_closed

    def test_both_close_at_once(self) -> None:
        connection = running_connection(1)
        connection.send_close(HardError(ReplyCode.CONNECTION_FORCED, "reason"))
        connection.data_to_send()
        assert feed(connection, method_frame(0, methods.ConnectionClose(reply_code=200))) == [(CLOSE_OK,)]
        assert answers(connection.data_to_send()) == [(0, methods.ConnectionCloseOk())]
        assert connection.is_closed

    def test_after_a_failure_nothing_is_read_until_we_close(self) -> None:
        connection = running_connection(1)
        second_open = method_frame(1, methods.ChannelOpen())
        assert [event[0] for event in feed(connection, second_open + publish(1, b"x") + second_open)] == [
            FAILED
        ]
        connection.send_close(HardError(ReplyCode.CHANNEL_ERROR, "x"))
        assert feed(connection, method_frame(0, methods.ConnectionCloseOk())) == [(CLOSE_OK,)]

    def test_close_and_close_ok_in_the_bytes_that_failed(self) -> None:
        connection = running_connection(1)
        frames = method_frame(1, methods.ChannelOpen()) + method_frame(
            0, methods.ConnectionClose(reply_code=200)
        )
        seen = []
        for event in connection.receive_data(frames):
            seen.append(event[0])
            if event[0] == FAILED:
                connection.send_close(event[1])
        assert seen == [FAILED, CLOSE_OK]

    def test_broken_framing_while_closing_is_the_end(self) -> None:
        connection = running_connection(1)
        connection.send_close(HardError(ReplyCode.CONNECTION_FORCED, "reason"))
        assert feed(connection, b"\x01\x00\x00\x00\x00\x00\x00!") == [(CLOSE_OK,)]
        assert connection.is_closed

    def test_an_ignored_peer_hears_nothing(self) -> None:
        connection = new_connection()
        for event in connection.receive_data(LOGIN + tune_ok()):
            assert event[0] == START_OK
            connection.data_to_send()
            connection.ignore_peer()
        assert feed(connection, vhost_open()) == []
        assert connection.data_to_send() == []

    def test_closing_what_never_began_says_nothing(self) -> None:
        connection = new_connection()
        connection.send_close(HardError(ReplyCode.CONNECTION_FORCED, "shutdown"))
        assert connection.data_to_send() == []
        assert connection.is_closed


class TestHeartbeats:
    def test_one_is_sent_every_half_interval_of_silence(self) -> None:
        connection = running_connection(heartbeat=10)
        sent = []
        for now_s in range(21):
            feed(connection, HEARTBEAT_OCTETS)
            assert connection.tick(now_s)
            sent += [now_s for _, answer in answers(connection.data_to_send()) if answer == Heartbeat()]
        assert sent == [5, 10, 15, 20]

    def test_none_is_due_at_the_first_tick(self) -> None:
        # A client amid its handshake takes one for a wrong answer; and no clock begins at 0.
        connection = running_connection(heartbeat=10)
        connection.tick(1000)
        connection.tick(1004)
        assert connection.data_to_send() == []
        connection.tick(1005)
        assert connection.data_to_send() == [HEARTBEAT_OCTETS]

    def test_traffic_takes_its_place(self) -> None:
        connection = running_connection(heartbeat=10)
        for now_s in range(20):
            connection.send_method(0, methods.ConnectionUnblocked())
            connection.tick(now_s)
            assert Heartbeat() not in [answer for _, answer in answers(connection.data_to_send())]

    def test_silence_of_more_than_two_intervals_is_the_end(self) -> None:
        connection = running_connection(heartbeat=10)
        assert next(now_s for now_s in range(100, 130) if not connection.tick(now_s)) == 121

    def test_any_octet_is_a_sign_of_life(self) -> None:
        connection = running_connection(heartbeat=10)
        for now_s in range(0, 200, 15):
            feed(connection, HEARTBEAT_OCTETS[now_s // 15 % 8 : now_s // 15 % 8 + 1])
            assert connection.tick(now_s)

    def test_the_peer_is_not_to_blame_while_nobody_reads(self) -> None:
        connection = running_connection(heartbeat=10)
        assert all(connection.tick(now_s, is_reading=False) for now_s in range(0, 500, 5))

    def test_interval_zero_is_none(self) -> None:
        connection = running_connection(heartbeat=0)
        assert all(connection.tick(now_s) for now_s in range(0, 5000, 100))
        assert connection.data_to_send() == []

    def test_none_before_tuning_and_after_the_end(self) -> None:
        connection = new_connection()
        feed(connection, PROTOCOL_HEADER)
        connection.data_to_send()
        assert all(connection.tick(now_s) for now_s in range(0, 5000, 100))
        assert connection.data_to_send() == []


def test_events_are_the_same_byte_by_byte() -> None:
    stream = (
        publish(1, b"body")
        + method_frame(1, methods.BasicAck(delivery_tag=3))
        + publish(1, bytes(9000), frame_max=4096)
    )
    stream += HEARTBEAT_OCTETS + publish(1) + method_frame(1, methods.TxSelect())
    whole = feed(running_connection(1), stream)
    assert len(whole) == 5
    assert feed(running_connection(1), *(stream[i : i + 1] for i in range(len(stream)))) == whole


def test_content_of_a_return_is_not_for_servers() -> None:
    """Clients may not send basic.return; it is reported as the method it is, for the session to refuse."""
    method = methods.BasicReturn(reply_code=312, reply_text="", exchange="", routing_key="")
    assert feed(running_connection(1), method_frame(1, method)) == [(METHOD, 1, method)]


def test_answers_are_read_back_as_sent() -> None:
    """The test's own reader of frames."""
    assert answers([content_frames(4, PERSISTENT, b"ab", 4096)]) == [
        (4, Content(PERSISTENT, 2, b"")),
        (4, Content(None, 0, b"ab")),
    ]
