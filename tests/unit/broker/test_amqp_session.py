"""An AMQP session: the handshake, replies, messages, errors. The rest is in `test_amqp_session_end.py`."""

from typing import Any

import pytest
from amqp_house import MESSAGE_SIZE_MAX, House, Peer, close_of
from amqp_peer import FRAME_MAX, LOGIN, PERSISTENT, Answer, Content, publish, tune_ok, vhost_open

from leveret.broker.sessions.amqp_session import CAPABILITIES, REFUSAL_DELAY_S
from leveret.protocol.amqp import methods
from leveret.protocol.amqp.connection import PROTOCOL_HEADER
from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.wire_types import Method
from leveret.protocol.errors import SoftError
from leveret.protocol.reply_codes import ReplyCode
from leveret.version import __version__


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def peer(house: House) -> Peer:
    return Peer.with_queue(house)


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
            methods.ConnectionUpdateSecret(new_secret=b"new"),
            methods.TxSelectOk(),
        ],
    )
    def test_what_nobody_says_to_a_channel(self, peer: Peer, method: Method) -> None:
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

    @pytest.mark.parametrize("durable", [True, False])
    def test_who_deletes_a_queue_is_answered_before_its_own_consumers_are_cancelled(
        self, house: House, durable: bool
    ) -> None:
        # Clients forget the channel's consumers with the reply; a cancel before it is news to them.
        peer = Peer(house).connect(1, capabilities={"consumer_cancel_notify": True})
        peer.ask(1, methods.QueueDeclare(queue="q", durable=durable))
        house.commit()
        peer.ask(1, methods.BasicConsume(queue="q", consumer_tag="t"))
        house.commit()
        said = peer.said() + peer.ask(1, methods.QueueDelete(queue="q"))
        house.commit()
        cancel = methods.BasicCancel(consumer_tag="t", no_wait=True)
        assert (said + peer.said())[-2:] == [(1, methods.QueueDeleteOk(message_count=0)), (1, cancel)]

    def test_deleting_without_asking_for_an_answer_still_cancels(self, house: House) -> None:
        peer = Peer(house).connect(1, capabilities={"consumer_cancel_notify": True})
        peer.ask(1, methods.QueueDeclare(queue="q"), methods.BasicConsume(queue="q", consumer_tag="t"))
        said = peer.ask(1, methods.QueueDelete(queue="q", no_wait=True))
        assert said == [(1, methods.BasicCancel(consumer_tag="t", no_wait=True))]


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
