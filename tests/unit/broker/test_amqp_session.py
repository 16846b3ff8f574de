"""An AMQP session on a real domain, without sockets and disk: `House.commit` is the group commit."""

from collections.abc import Callable
from typing import Any

import pytest
from amqp_peer import (
    FRAME_MAX,
    LOGIN,
    PERSISTENT,
    Answer,
    Content,
    Heartbeat,
    answers,
    publish,
    tune_ok,
    vhost_open,
)
from fake_services import FakeClock, FakeTimers

from leveret.broker.amqp_session import (
    CAPABILITIES,
    CLOSE_TIMEOUT_S,
    LOST_FRAMING_TIMEOUT_S,
    REFUSAL_DELAY_S,
    TURN_OUTPUT_MAX_BYTES,
    AmqpSession,
)
from leveret.broker.auth import Authenticator, User, hash_password
from leveret.broker.broker import Broker
from leveret.broker.journal import Journal
from leveret.broker.session import SessionSettings
from leveret.protocol.amqp import methods
from leveret.protocol.amqp.connection import PROTOCOL_HEADER
from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.frames import build_frame, method_frame
from leveret.protocol.amqp.wire_types import Method
from leveret.protocol.errors import HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode
from leveret.version import __version__

TRANSIENT = b"\0\0"
GOODBYE = HardError(ReplyCode.CONNECTION_FORCED, "broker forced connection closure with reason 'shutdown'")
MESSAGE_SIZE_MAX = 4 << 20


class FakeHost:
    """The transport: notes what the session asks for."""

    name = "peer -> broker"
    peer_is_loopback = True

    def __init__(self) -> None:
        self.flushes = 0
        self.holds = 0
        self.closes_after_s: list[float] = []

    def request_flush(self) -> None:
        self.flushes += 1

    def pause_input(self) -> None:
        self.holds += 1

    def resume_input(self) -> None:
        self.holds -= 1

    def close_after(self, delay_s: float) -> None:
        self.closes_after_s.append(delay_s)


class House:
    """A broker; `scheduled` is the end of the loop's turn."""

    def __init__(self) -> None:
        clock = FakeClock()
        self.scheduled: list[Callable[[], None]] = []
        self.broker = Broker(
            clock=clock,
            timers=FakeTimers(clock),
            journal=Journal(1 << 20),
            schedule=self.scheduled.append,
            kick_committer=lambda: None,
        )
        self.settings = SessionSettings(
            broker=self.broker,
            authenticator=Authenticator([User("guest", hash_password("guest"))], []),
            frame_max_bytes=FRAME_MAX,
            channel_max=2047,
            heartbeat_s=60,
            message_size_max_bytes=MESSAGE_SIZE_MAX,
            product="RabbitMQ",
            version="3.13.7",
        )

    def end_turn(self) -> None:
        while self.scheduled:
            self.scheduled.pop(0)()

    def commit(self) -> None:
        """What is pending becomes durable."""
        self.end_turn()
        self.broker.journal.take().committed()
        self.end_turn()


class Peer:
    """A client on a session of its own."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.host = FakeHost()
        self.session = AmqpSession(house.settings, self.host)

    def connect(self, *channels: int, capabilities: FieldTable | None = None) -> "Peer":
        """Log in and open channels."""
        self.send(PROTOCOL_HEADER)
        properties: FieldTable = {"capabilities": {} if capabilities is None else capabilities}
        self.ask(0, methods.ConnectionStartOk(client_properties=properties, response=b"\0guest\0guest"))
        self.send(tune_ok() + vhost_open())
        for channel in channels:
            self.ask(channel, methods.ChannelOpen())
        self.said()
        return self

    def send(self, data: bytes) -> list[Answer]:
        """Bytes from the peer; returns what the session says to them."""
        assert self.host.holds == 0
        self.session.receive_data(data)
        return self.said()

    def ask(self, channel: int, *wanted: Method) -> list[Answer]:
        return self.send(b"".join(method_frame(channel, method) for method in wanted))

    def said(self) -> list[Answer]:
        """What the session wants to be written."""
        return answers(self.session.take_output())


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def peer(house: House) -> Peer:
    """Logged in, with channels 1 and 2 and the transient queue `q`."""
    peer = Peer(house).connect(1, 2)
    peer.ask(1, methods.QueueDeclare(queue="q"))
    return peer


def close_of(channel: int, code: int, text: str, ids: tuple[int, int]) -> Answer:
    """channel.close, or on channel 0 connection.close."""
    cls = methods.ChannelClose if channel else methods.ConnectionClose
    return channel, cls(reply_code=code, reply_text=text, class_id=ids[0], method_id=ids[1])


class TestHandshake:
    def test_from_login_to_open(self, house: House) -> None:
        peer = Peer(house)
        ((_, start), (_, tune)) = peer.send(LOGIN)
        assert isinstance(start, methods.ConnectionStart)
        assert start.mechanisms == b"PLAIN AMQPLAIN"
        assert tune == methods.ConnectionTune(channel_max=2047, frame_max=FRAME_MAX, heartbeat=60)
        assert not peer.session.is_established
        assert peer.send(tune_ok() + vhost_open()) == [(0, methods.ConnectionOpenOk())]
        assert peer.session.is_established
        assert len(house.broker.connections) == 1

    def test_server_properties(self, house: House) -> None:
        ((_, start),) = Peer(house).send(PROTOCOL_HEADER)
        assert isinstance(start, methods.ConnectionStart)
        properties = start.server_properties
        assert properties["product"] == "RabbitMQ"
        assert properties["version"] == "3.13.7"
        assert properties["leveret_version"] == __version__
        assert properties["capabilities"] == dict.fromkeys(CAPABILITIES, True)
        assert {"cluster_name", "platform", "copyright", "information"} <= properties.keys()

    def test_another_protocol(self, house: House) -> None:
        peer = Peer(house)
        peer.session.receive_data(b"GET / HTTP/1.1\r\n\r\n")
        assert peer.session.take_output() == [PROTOCOL_HEADER]
        assert peer.session.is_closed

    def refused(self, house: House, response: bytes, **capabilities: bool) -> tuple[Peer, list[Answer]]:
        peer = Peer(house)
        peer.send(PROTOCOL_HEADER)
        start_ok = methods.ConnectionStartOk(
            client_properties={"capabilities": dict(capabilities)}, response=response
        )
        return peer, peer.ask(0, start_ok)

    def test_a_refused_login_is_told_to_those_who_can_hear_it(self, house: House) -> None:
        _, said = self.refused(house, b"\0guest\0wrong", authentication_failure_close=True)
        text = (
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. "
            "For details see the broker logfile."
        )
        assert said == [close_of(0, 403, text, (0, 0))]

    def test_a_refused_login_else_only_ends_in_silence(self, house: House) -> None:
        peer, said = self.refused(house, b"\0guest\0wrong")
        assert said == []
        assert peer.host.closes_after_s == [REFUSAL_DELAY_S]
        assert peer.send(tune_ok() + vhost_open()) == []

    def test_a_malformed_response_is_told_to_all(self, house: House) -> None:
        _, ((_, close),) = self.refused(house, b"?")
        assert isinstance(close, methods.ConnectionClose)
        assert close.reply_code == 502

    def test_an_unknown_mechanism(self, house: House) -> None:
        peer = Peer(house)
        peer.send(PROTOCOL_HEADER)
        said = peer.ask(0, methods.ConnectionStartOk(mechanism="EXTERNAL"))
        assert said == [
            close_of(0, 503, "COMMAND_INVALID - unknown authentication mechanism 'EXTERNAL'", (0, 0))
        ]

    def test_an_unknown_vhost(self, house: House) -> None:
        peer = Peer(house)
        peer.send(LOGIN + tune_ok())
        assert peer.send(vhost_open("nowhere")) == [
            close_of(0, 530, "NOT_ALLOWED - vhost nowhere not found", (0, 0))
        ]
        assert not peer.session.is_established


# Transient objects only: what is durable waits for the commit, see TestHold. To be run in this order.
CONVERSATION: list[tuple[Method, Method | None]] = [
    (methods.AccessRequest(), methods.AccessRequestOk(ticket=1)),
    (methods.ChannelFlow(active=True), methods.ChannelFlowOk(active=True)),
    (methods.ExchangeDeclare(exchange="x", type="topic"), methods.ExchangeDeclareOk()),
    (methods.ExchangeDeclare(exchange="y", type="fanout", no_wait=True), None),
    (methods.ExchangeBind(destination="y", source="x", routing_key="#"), methods.ExchangeBindOk()),
    (methods.ExchangeBind(destination="y", source="x", routing_key="#", no_wait=True), None),
    (methods.QueueDeclare(queue="a"), methods.QueueDeclareOk(queue="a", message_count=0, consumer_count=0)),
    (methods.QueueDeclare(queue="b", no_wait=True), None),
    (methods.QueueBind(queue="a", exchange="y"), methods.QueueBindOk()),
    (methods.QueueBind(queue="a", exchange="y", no_wait=True), None),
    (methods.QueueUnbind(queue="a", exchange="y"), methods.QueueUnbindOk()),
    (methods.ExchangeUnbind(destination="y", source="x", routing_key="#"), methods.ExchangeUnbindOk()),
    (methods.ExchangeUnbind(destination="y", source="x", no_wait=True), None),
    (methods.QueuePurge(queue="a"), methods.QueuePurgeOk(message_count=0)),
    (methods.QueuePurge(queue="a", no_wait=True), None),
    (methods.BasicQos(prefetch_count=5), methods.BasicQosOk()),
    (methods.BasicGet(queue="a"), methods.BasicGetEmpty()),
    (methods.BasicConsume(queue="a", consumer_tag="t"), methods.BasicConsumeOk(consumer_tag="t")),
    (methods.BasicConsume(queue="a", consumer_tag="u", no_wait=True), None),
    (methods.BasicCancel(consumer_tag="t"), methods.BasicCancelOk(consumer_tag="t")),
    (methods.BasicCancel(consumer_tag="u", no_wait=True), None),
    (methods.BasicCancelOk(consumer_tag="v"), None),
    (methods.ChannelFlowOk(active=True), None),
    (methods.BasicRecover(requeue=True), methods.BasicRecoverOk()),
    (methods.BasicRecoverAsync(requeue=True), None),
    (methods.QueueDelete(queue="a"), methods.QueueDeleteOk(message_count=0)),
    (methods.QueueDelete(queue="b", no_wait=True), None),
    (methods.ExchangeDelete(exchange="x"), methods.ExchangeDeleteOk()),
    (methods.ExchangeDelete(exchange="y", no_wait=True), None),
    (methods.ConfirmSelect(no_wait=True), None),
    (methods.ConfirmSelect(), methods.ConfirmSelectOk()),
]


class TestMethods:
    def test_every_method_has_its_reply_and_nowait_has_none(self, house: House) -> None:
        peer = Peer(house).connect(1)
        for method, reply in CONVERSATION:
            assert peer.ask(1, method) == ([] if reply is None else [(1, reply)]), method

    def test_pipelined_they_answer_in_order(self, house: House) -> None:
        peer = Peer(house).connect(1)
        said = peer.ask(1, *(method for method, _ in CONVERSATION))
        assert said == [(1, reply) for _, reply in CONVERSATION if reply is not None]

    def test_transactions(self, peer: Peer) -> None:
        assert peer.ask(1, methods.TxSelect()) == [(1, methods.TxSelectOk())]
        assert peer.ask(1, methods.TxRollback()) == [(1, methods.TxRollbackOk())]

    def test_update_secret(self, peer: Peer) -> None:
        said = peer.ask(0, methods.ConnectionUpdateSecret(new_secret=b"new"))
        assert said == [(0, methods.ConnectionUpdateSecretOk())]

    @pytest.mark.parametrize(
        "method",
        [
            methods.QueueDeclareOk(queue="q", message_count=0, consumer_count=0),
            methods.BasicDeliver(consumer_tag="t", delivery_tag=1, exchange="", routing_key=""),
            methods.ConnectionUnblocked(),
            methods.TxSelectOk(),
        ],
    )
    def test_what_only_servers_say(self, peer: Peer, method: Method) -> None:
        assert peer.ask(1, method) == [close_of(0, 503, "COMMAND_INVALID - unimplemented method", method.ids)]

    @pytest.mark.parametrize(
        ("method", "text"),
        [
            (methods.ChannelFlow(active=False), "active=false"),
            (methods.BasicRecover(requeue=False), "requeue=false"),
            (methods.BasicRecoverAsync(requeue=False), "requeue=false"),
            (methods.BasicQos(prefetch_size=10), "prefetch_size!=0 (10)"),
        ],
    )
    def test_what_is_not_implemented(self, peer: Peer, method: Method, text: str) -> None:
        assert peer.ask(1, method) == [close_of(0, 540, f"NOT_IMPLEMENTED - {text}", method.ids)]

    def test_immediate_is_not_implemented(self, peer: Peer) -> None:
        said = peer.send(publish(1, b"x", immediate=True))
        assert said == [close_of(0, 540, "NOT_IMPLEMENTED - immediate=true", methods.BasicPublish.ids)]


class TestMessages:
    def test_get(self, peer: Peer) -> None:
        peer.send(publish(1, b"body", properties=PERSISTENT))
        reply = methods.BasicGetOk(delivery_tag=1, exchange="", routing_key="q", message_count=0)
        content = [(1, Content(PERSISTENT, 4, b"")), (1, Content(None, 0, b"body"))]
        assert peer.ask(1, methods.BasicGet(queue="q")) == [(1, reply), *content]

    def test_deliver_ack_nack_and_reject(self, peer: Peer) -> None:
        peer.ask(1, methods.BasicConsume(queue="q", consumer_tag="t"))
        peer.send(publish(1, b"1") + publish(1, b"2") + publish(1, b"3"))
        peer.house.end_turn()
        assert self.delivered(peer) == [(1, False), (2, False), (3, False)]
        peer.ask(1, methods.BasicAck(delivery_tag=1), methods.BasicNack(delivery_tag=2))
        peer.house.end_turn()
        assert self.delivered(peer) == [(4, True)]
        peer.ask(1, methods.BasicReject(delivery_tag=3, requeue=False))
        peer.ask(1, methods.BasicAck(delivery_tag=0, multiple=True))
        assert peer.ask(1, methods.QueueDelete(queue="q", if_empty=True)) == [
            (1, methods.QueueDeleteOk(message_count=0))
        ]

    @staticmethod
    def delivered(peer: Peer) -> list[tuple[int, bool]]:
        deliveries = [answer for _, answer in peer.said() if isinstance(answer, methods.BasicDeliver)]
        return [(delivery.delivery_tag, delivery.redelivered) for delivery in deliveries]

    def test_confirms_come_with_the_commit_and_returns_before_them(self, peer: Peer) -> None:
        peer.ask(1, methods.ConfirmSelect())
        said = peer.send(publish(1, b"1") + publish(1, b"2", routing_key="nowhere", mandatory=True))
        assert said == [
            (
                1,
                methods.BasicReturn(
                    reply_code=312, reply_text="NO_ROUTE", exchange="", routing_key="nowhere"
                ),
            ),
            (1, Content(PERSISTENT, 1, b"")),
            (1, Content(None, 0, b"2")),
        ]
        peer.house.commit()
        assert peer.said() == [(1, methods.BasicAck(delivery_tag=2, multiple=True))]

    def test_a_refused_publish_is_nacked(self, peer: Peer) -> None:
        full: FieldTable = {"x-max-length": 0, "x-overflow": "reject-publish"}
        peer.ask(1, methods.QueueDeclare(queue="full", arguments=full), methods.ConfirmSelect())
        peer.send(publish(1, b"1", routing_key="full"))
        peer.house.commit()
        assert peer.said() == [(1, methods.BasicNack(delivery_tag=1, requeue=False))]

    @pytest.mark.parametrize("can", [True, False])
    def test_a_consumer_is_cancelled_only_towards_those_who_understand(self, house: House, can: bool) -> None:
        peer = Peer(house).connect(1, capabilities={"consumer_cancel_notify": can})
        peer.ask(1, methods.QueueDeclare(queue="q"), methods.BasicConsume(queue="q", consumer_tag="t"))
        other = Peer(house).connect(1)
        other.ask(1, methods.QueueDelete(queue="q"))
        expected = [(1, methods.BasicCancel(consumer_tag="t", no_wait=True))]
        assert peer.said() == (expected if can else [])


class TestErrors:
    MISSING = methods.QueueBind(queue="missing", exchange="amq.direct")
    NOT_FOUND = "NOT_FOUND - no queue 'missing' in vhost '/'"

    def test_a_soft_error_closes_its_channel_and_names_the_method(self, peer: Peer) -> None:
        said = peer.ask(1, self.MISSING, methods.TxSelect())
        assert said == [close_of(1, 404, self.NOT_FOUND, methods.QueueBind.ids)]
        assert peer.ask(2, methods.BasicQos()) == [(2, methods.BasicQosOk())]
        reopened = peer.ask(1, methods.ChannelCloseOk(), methods.ChannelOpen(), methods.BasicQos())
        assert reopened == [(1, methods.ChannelOpenOk()), (1, methods.BasicQosOk())]

    def test_a_failed_publish_closes_the_channel_and_drops_what_follows(self, peer: Peer) -> None:
        said = peer.send(publish(1, b"1", exchange="nope") + publish(1, b"2") + publish(2, b"3"))
        text = "NOT_FOUND - no exchange 'nope' in vhost '/'"
        assert said == [close_of(1, 404, text, methods.BasicPublish.ids)]
        ((_, got), *_) = peer.ask(2, methods.BasicGet(queue="q", no_ack=True))
        assert isinstance(got, methods.BasicGetOk)
        assert got.message_count == 0

    def test_an_unknown_delivery_tag(self, peer: Peer) -> None:
        said = peer.ask(1, methods.BasicAck(delivery_tag=7))
        text = "PRECONDITION_FAILED - unknown delivery tag 7"
        assert said == [close_of(1, 406, text, methods.BasicAck.ids)]

    def test_a_body_too_large_closes_its_channel(self, peer: Peer) -> None:
        said = peer.send(publish(1, bytes(MESSAGE_SIZE_MAX + 1)) + publish(2, b"x"))
        text = "PRECONDITION_FAILED - message size 4194305 is larger than configured max size 4194304"
        assert said == [close_of(1, 406, text, methods.BasicPublish.ids)]

    def test_what_was_unacked_on_a_failed_channel_goes_back(self, peer: Peer) -> None:
        peer.send(publish(1, b"x"))
        peer.ask(1, methods.BasicGet(queue="q"), self.MISSING)
        ((_, got), *_) = peer.ask(2, methods.BasicGet(queue="q"))
        assert isinstance(got, methods.BasicGetOk)
        assert got.redelivered

    def test_a_hard_error_closes_the_connection(self, peer: Peer) -> None:
        consume = methods.BasicConsume(queue="q", consumer_tag="t")
        peer.ask(1, consume)
        said = peer.ask(1, consume, methods.BasicQos())
        assert said == [close_of(0, 530, "NOT_ALLOWED - attempt to reuse consumer tag 't'", consume.ids)]
        assert not peer.house.broker.connections
        assert not peer.session.is_closed
        peer.ask(0, methods.ConnectionCloseOk())
        assert peer.session.is_closed

    def test_a_protocol_error_closes_the_connection(self, peer: Peer) -> None:
        said = peer.ask(1, methods.ChannelOpen())
        text = "CHANNEL_ERROR - second 'channel.open' seen"
        assert said == [close_of(0, 504, text, methods.ChannelOpen.ids)]

    def test_the_unexpected_closes_the_connection_only_and_is_logged(
        self, peer: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def explode(*_: Any, **__: Any) -> None:
            raise RuntimeError("boom")

        other = Peer(peer.house).connect(1)
        monkeypatch.setattr(type(peer.house.broker.vhosts["/"]), "declare_queue", explode)
        method = methods.QueueDeclare(queue="z")
        said = peer.ask(1, method)
        assert said == [close_of(0, 541, "INTERNAL_ERROR - see the broker's log", method.ids)]
        assert "RuntimeError: boom" in caplog.text
        assert other.ask(1, methods.BasicQos()) == [(1, methods.BasicQosOk())]

    def test_a_channel_that_fails_by_itself(self, peer: Peer) -> None:
        (connection,) = peer.house.broker.connections
        error = SoftError(ReplyCode.PRECONDITION_FAILED, "delivery acknowledgement on channel 1 timed out")
        connection.channels[1].wire.close_channel(error)
        text = "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out"
        assert peer.said() == [close_of(1, 406, text, (0, 0))]
        assert list(connection.channels) == [2]
        connection.channels[2].wire.close_channel(error)
        assert len(peer.said()) == 1


class TestHold:
    DURABLE = methods.QueueDeclare(queue="d", durable=True)
    DECLARED = (1, methods.QueueDeclareOk(queue="d", message_count=0, consumer_count=0))

    def test_a_durable_change_is_answered_after_the_commit(self, peer: Peer) -> None:
        assert peer.ask(1, self.DURABLE, methods.BasicQos()) == []
        assert peer.host.holds == 1
        peer.house.commit()
        assert peer.said() == [self.DECLARED, (1, methods.BasicQosOk())]
        assert peer.host.holds == 0

    def test_a_transient_change_is_answered_at_once(self, peer: Peer) -> None:
        assert len(peer.ask(1, methods.QueueDeclare(queue="t"))) == 1
        assert peer.host.holds == 0

    def test_several_changes_wait_one_after_the_other(self, peer: Peer) -> None:
        binding = methods.QueueBind(queue="d", exchange="amq.fanout")
        peer.ask(1, self.DURABLE, binding, methods.TxSelect())
        peer.house.commit()
        assert peer.said() == [self.DECLARED]
        assert peer.host.holds == 1
        peer.house.commit()
        assert peer.said() == [(1, methods.QueueBindOk()), (1, methods.TxSelectOk())]
        assert peer.host.holds == 0

    def test_messages_behind_a_change_wait_too_and_keep_their_order(self, peer: Peer) -> None:
        frames = method_frame(1, self.DURABLE) + publish(1, b"1", routing_key="d")
        frames += publish(1, bytes(5000), routing_key="d", frame_max=4096)
        assert peer.send(frames[:-100]) == []
        peer.house.commit()
        peer.said()
        peer.send(frames[-100:])
        queue = peer.house.broker.vhosts["/"].queues["d"]
        assert queue.message_count == 2

    def test_what_others_say_meanwhile_is_not_held(self, peer: Peer) -> None:
        peer.ask(2, methods.BasicConsume(queue="q", consumer_tag="t"))
        peer.ask(1, self.DURABLE)
        other = Peer(peer.house).connect(1)
        other.send(publish(1, b"x"))
        peer.house.end_turn()
        assert isinstance(peer.said()[0][1], methods.BasicDeliver)
        peer.house.commit()
        assert peer.said() == [self.DECLARED]

    def test_the_first_get_of_a_durable_queue_waits(self, peer: Peer) -> None:
        peer.ask(1, self.DURABLE)
        peer.house.commit()
        peer.send(publish(1, b"x", routing_key="d"))
        peer.said()
        assert peer.ask(1, methods.BasicGet(queue="d")) == []
        peer.house.commit()
        assert [type(answer) for _, answer in peer.said()] == [methods.BasicGetOk, Content, Content]

    def test_the_first_delivery_of_a_durable_queue_follows_consume_ok(self, peer: Peer) -> None:
        peer.ask(1, self.DURABLE)
        peer.house.commit()
        peer.send(publish(1, b"x", routing_key="d"))
        peer.said()
        assert peer.ask(1, methods.BasicConsume(queue="d", consumer_tag="t")) == []
        peer.house.end_turn()
        assert peer.said() == []
        peer.house.commit()
        kinds = [type(answer) for _, answer in peer.said()]
        assert kinds == [methods.BasicConsumeOk, methods.BasicDeliver, Content, Content]

    def test_tx_commit_waits(self, peer: Peer) -> None:
        peer.ask(1, methods.TxSelect())
        assert peer.ask(1, methods.TxCommit()) == []
        peer.house.commit()
        assert peer.said() == [(1, methods.TxCommitOk())]

    def test_a_connection_lost_meanwhile_says_nothing_more(self, peer: Peer) -> None:
        peer.ask(1, self.DURABLE, methods.QueueDeclare(queue="never"))
        peer.session.connection_lost()
        peer.house.commit()
        assert peer.said() == []
        assert "never" not in peer.house.broker.vhosts["/"].queues

    def test_a_broker_that_closes_meanwhile_forgets_the_reply(self, peer: Peer) -> None:
        frames = method_frame(1, self.DURABLE) + publish(1, b"x") + method_frame(1, methods.TxSelect())
        assert peer.send(frames) == []
        peer.session.close(GOODBYE)
        assert [type(answer) for _, answer in peer.said()] == [methods.ConnectionClose]
        assert peer.host.holds == 0
        peer.house.commit()
        assert peer.said() == []
        peer.ask(0, methods.ConnectionCloseOk())
        assert peer.session.is_closed
        assert peer.house.broker.vhosts["/"].queues["q"].message_count == 0

    def test_a_channel_that_fails_meanwhile_gets_no_reply_after_its_close(self, peer: Peer) -> None:
        peer.ask(1, self.DURABLE)
        (connection,) = peer.house.broker.connections
        connection.channels[1].wire.close_channel(SoftError(ReplyCode.PRECONDITION_FAILED, "timed out"))
        assert [type(answer) for _, answer in peer.said()] == [methods.ChannelClose]
        peer.house.commit()
        assert peer.said() == []
        assert peer.host.holds == 0

    def test_close_ok_waits_for_what_closing_changed(self, peer: Peer) -> None:
        fading = methods.QueueDeclare(queue="f", durable=True, auto_delete=True)
        peer.ask(1, fading)
        peer.house.commit()
        peer.ask(1, methods.BasicConsume(queue="f", consumer_tag="t"))
        peer.house.commit()
        peer.said()
        assert peer.ask(0, methods.ConnectionClose(reply_code=200)) == []
        assert not peer.session.is_closed
        peer.house.commit()
        assert peer.said() == [(0, methods.ConnectionCloseOk())]
        assert peer.session.is_closed


class TestTheEnd:
    def test_the_client_closes(self, peer: Peer) -> None:
        peer.ask(1, methods.QueueDeclare(queue="own", exclusive=True))
        said = peer.ask(0, methods.ConnectionClose(reply_code=200, reply_text="bye"))
        assert said == [(0, methods.ConnectionCloseOk())]
        assert peer.session.is_closed
        assert "own" not in peer.house.broker.vhosts["/"].queues
        assert not peer.house.broker.connections

    def test_the_client_closes_a_channel(self, peer: Peer) -> None:
        said = peer.ask(1, methods.ChannelClose(reply_code=200), methods.ChannelOpen())
        assert said == [(1, methods.ChannelCloseOk()), (1, methods.ChannelOpenOk())]

    def test_a_lost_connection_gives_everything_back(self, peer: Peer) -> None:
        peer.ask(1, methods.QueueDeclare(queue="own", exclusive=True))
        peer.send(publish(1, b"x"))
        peer.ask(1, methods.BasicGet(queue="q"))
        peer.session.connection_lost()
        peer.session.connection_lost()
        vhost = peer.house.broker.vhosts["/"]
        assert "own" not in vhost.queues
        assert vhost.queues["q"].message_count == 1

    def test_the_broker_closes(self, peer: Peer) -> None:
        peer.session.close(GOODBYE)
        peer.session.close(GOODBYE)
        text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
        assert peer.said() == [close_of(0, 320, text, (0, 0))]
        assert peer.send(publish(1, b"late")) == []
        assert not peer.session.is_closed
        peer.ask(0, methods.ConnectionCloseOk())
        assert peer.session.is_closed

    def test_the_broker_closes_a_handshake(self, house: House) -> None:
        peer = Peer(house)
        peer.session.close(GOODBYE)
        assert peer.said() == []
        assert peer.session.is_closed

    def test_close_ok_is_waited_for_only_so_long(self, peer: Peer) -> None:
        peer.session.close(GOODBYE)
        peer.session.tick(100)
        peer.session.tick(100 + CLOSE_TIMEOUT_S - 0.1)
        assert peer.host.closes_after_s == []
        peer.session.tick(100 + CLOSE_TIMEOUT_S)
        assert peer.host.closes_after_s == [0]

    def test_and_shorter_where_it_could_not_be_read(self, peer: Peer) -> None:
        ((_, close),) = peer.send(build_frame(1, 1, b"1234")[:-1] + b"!")
        assert isinstance(close, methods.ConnectionClose)
        assert close.reply_code == 501
        peer.session.tick(100)
        peer.session.tick(100 + LOST_FRAMING_TIMEOUT_S)
        assert peer.host.closes_after_s == [0]


class TestTime:
    def test_heartbeats_go_out(self, peer: Peer) -> None:
        for now_s in (0, 29, 31):
            peer.session.tick(now_s)
        assert peer.said() == [(0, Heartbeat())]

    def test_a_silent_client_is_dropped_without_a_word(self, peer: Peer) -> None:
        peer.session.tick(0)
        peer.session.tick(121)
        assert peer.host.closes_after_s == [0]

    def test_but_not_while_its_input_is_held(self, peer: Peer) -> None:
        peer.ask(1, methods.QueueDeclare(queue="d", durable=True))
        peer.session.tick(0)
        peer.session.tick(121)
        assert peer.host.closes_after_s == []


class TestFlow:
    def fill(self, peer: Peer, count: int) -> None:
        """Publish half a turn's output, several times."""
        other = Peer(peer.house).connect(1)
        for _ in range(count):
            other.send(publish(1, bytes(TURN_OUTPUT_MAX_BYTES // 2)))

    @staticmethod
    def delivered(said: list[Answer]) -> int:
        return sum(isinstance(answer, methods.BasicDeliver) for _, answer in said)

    def test_a_turn_delivers_only_so_much_and_the_next_goes_on(self, peer: Peer) -> None:
        peer.ask(1, methods.BasicConsume(queue="q", consumer_tag="t"))
        self.fill(peer, 5)
        counts = []
        for _ in range(4):
            peer.house.end_turn()
            counts.append(self.delivered(peer.said()))
        assert counts == [2, 2, 1, 0]

    def test_nothing_is_delivered_while_the_socket_is_full(self, peer: Peer) -> None:
        peer.ask(1, methods.BasicConsume(queue="q", consumer_tag="t"))
        peer.session.set_writable(False)
        self.fill(peer, 1)
        peer.house.end_turn()
        assert peer.said() == []
        peer.session.set_writable(True)
        peer.house.end_turn()
        assert self.delivered(peer.said()) == 1

    def test_output_outside_of_input_asks_for_a_flush(self, peer: Peer) -> None:
        peer.ask(1, methods.BasicConsume(queue="q", consumer_tag="t"))
        self.fill(peer, 1)
        before = peer.host.flushes
        peer.house.end_turn()
        assert peer.host.flushes == before + 1
