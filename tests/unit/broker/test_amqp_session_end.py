"""An AMQP session: the hold for durable changes, the end of a connection, heartbeats, flow control."""

import pytest
from amqp_house import House, Peer, close_of
from amqp_peer import FRAME_MAX, Answer, Content, Heartbeat, publish

from leveret.broker.alarms import Alarms, Limits
from leveret.broker.sessions.amqp_session import (
    CLOSE_TIMEOUT_S,
    LOST_FRAMING_TIMEOUT_S,
    TURN_OUTPUT_MAX_BYTES,
)
from leveret.protocol.amqp import methods
from leveret.protocol.amqp.frames import build_frame, method_frame
from leveret.protocol.errors import HardError, SoftError
from leveret.protocol.reply_codes import ReplyCode

GOODBYE = HardError(ReplyCode.CONNECTION_FORCED, "broker forced connection closure with reason 'shutdown'")


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def peer(house: House) -> Peer:
    return Peer.with_queue(house)


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

    def test_changes_that_come_together_wait_together(self, peer: Peer) -> None:
        binding = methods.QueueBind(queue="d", exchange="amq.fanout")
        assert peer.ask(1, self.DURABLE, binding, methods.TxSelect()) == []
        assert peer.host.holds == 1
        peer.house.commit()
        assert peer.said() == [self.DECLARED, (1, methods.QueueBindOk()), (1, methods.TxSelectOk())]
        assert peer.host.holds == 0

    def test_no_delivery_overtakes_the_reply_to_its_consume(self, peer: Peer) -> None:
        peer.send(publish(1, b"x"))
        consume = methods.BasicConsume(queue="q", consumer_tag="t")
        assert peer.ask(1, self.DURABLE, consume) == []
        peer.house.end_turn()
        assert peer.said() == []
        peer.house.commit()
        peer.house.end_turn()
        kinds = [type(answer) for _, answer in peer.said()]
        assert kinds == [
            methods.QueueDeclareOk,
            methods.BasicConsumeOk,
            methods.BasicDeliver,
            Content,
            Content,
        ]

    def test_a_consume_that_waits_goes_with_its_channel(self, peer: Peer) -> None:
        assert peer.ask(1, self.DURABLE, methods.BasicConsume(queue="q", consumer_tag="t")) == []
        (connection,) = peer.house.broker.connections
        connection.channels[1].wire.close_channel(SoftError(ReplyCode.PRECONDITION_FAILED, "timed out"))
        assert [type(answer) for _, answer in peer.said()] == [methods.ChannelClose]
        peer.house.commit()
        assert peer.said() == []
        assert peer.ask(2, methods.BasicQos()) == [(2, methods.BasicQosOk())]

    def test_very_many_changes_at_once_let_others_have_their_turn(self, peer: Peer) -> None:
        declares = [methods.QueueDeclare(queue=f"d{number}", durable=True) for number in range(1000)]
        frames = b"".join(method_frame(1, declare) for declare in declares)
        assert peer.send(frames + method_frame(3, methods.ChannelOpen())) == []
        assert len(peer.house.broker.vhosts["/"].queues) < 500
        answers = []
        while peer.host.holds:
            peer.house.commit()
            answers += [type(answer) for _, answer in peer.said()]
        assert answers == [methods.QueueDeclareOk] * 1000 + [methods.ChannelOpenOk]

    def test_a_refusal_behind_a_change_follows_its_reply(self, peer: Peer) -> None:
        assert peer.ask(1, self.DURABLE, methods.QueueDeclare(queue="nowhere", passive=True)) == []
        peer.house.commit()
        assert [type(answer) for _, answer in peer.said()] == [methods.QueueDeclareOk, methods.ChannelClose]

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

    def test_a_commit_of_which_a_queue_refuses_something_fails(self, peer: Peer) -> None:
        for_one = {"x-max-length": 1, "x-overflow": "reject-publish"}
        peer.ask(1, methods.QueueDeclare(queue="full", arguments=for_one), methods.TxSelect())
        peer.send(publish(1, b"1", routing_key="full") + publish(1, b"2", routing_key="full"))
        text = "PRECONDITION_FAILED - partial tx completion"
        assert peer.ask(1, methods.TxCommit()) == [close_of(1, 406, text, methods.TxCommit.ids)]
        assert peer.house.broker.vhosts["/"].queues["full"].message_count == 1

    def test_a_connection_lost_meanwhile_says_nothing_more(self, peer: Peer) -> None:
        peer.ask(1, self.DURABLE, methods.QueueDeclare(queue="t"))
        peer.session.connection_lost()
        peer.house.commit()
        assert peer.said() == []
        assert peer.host.holds == 1

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

    def test_a_lost_connection_gives_everything_back(
        self, peer: Peer, caplog: pytest.LogCaptureFixture
    ) -> None:
        peer.ask(1, methods.QueueDeclare(queue="own", exclusive=True))
        peer.send(publish(1, b"x"))
        peer.ask(1, methods.BasicGet(queue="q"))
        peer.session.connection_lost()
        peer.session.connection_lost()
        assert caplog.messages == ["peer -> broker: the client went away without closing the connection"]
        vhost = peer.house.broker.vhosts["/"]
        assert "own" not in vhost.queues
        assert vhost.queues["q"].message_count == 1

    def test_a_connection_that_the_broker_cut_is_not_the_clients_fault(
        self, peer: Peer, caplog: pytest.LogCaptureFixture
    ) -> None:
        peer.host.was_cut = True
        peer.session.connection_lost()
        assert caplog.messages == []

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


class TestAlarms:
    @pytest.fixture
    def alarmed(self, house: House) -> House:
        house.broker.alarms = Alarms(Limits(memory_bytes=100, disk_free_bytes=0))
        house.broker.alarms.update(memory_bytes=200, disk_free_bytes=1)
        return house

    @pytest.mark.parametrize("can", [True, False])
    def test_the_first_publish_blocks_and_the_end_of_the_alarm_unblocks(
        self, alarmed: House, can: bool
    ) -> None:
        peer = Peer(alarmed).connect(1, capabilities={"connection.blocked": can})
        assert len(peer.ask(1, methods.QueueDeclare(queue="q"))) == 1
        said = peer.send(publish(1, b"1") + publish(1, b"2"))
        assert said == ([(0, methods.ConnectionBlocked(reason="low on memory"))] if can else [])
        assert peer.host.holds == 1
        assert alarmed.broker.vhosts["/"].queues["q"].message_count == 2
        alarmed.broker.alarms.update(memory_bytes=0, disk_free_bytes=1)
        assert peer.said() == ([(0, methods.ConnectionUnblocked())] if can else [])
        assert peer.host.holds == 0

    def test_a_publish_blocks_when_it_begins(self, alarmed: House) -> None:
        """Or bodies of any size, on any number of connections, would still be collected."""
        peer = Peer(alarmed).connect(1)
        frames = publish(1, bytes(2 * FRAME_MAX))
        peer.send(frames[:FRAME_MAX])
        assert peer.host.holds == 1
        alarmed.broker.alarms.update(memory_bytes=0, disk_free_bytes=1)
        assert peer.host.holds == 0
        peer.send(frames[FRAME_MAX:])
        assert alarmed.broker.counters.published == 1

    def test_a_closing_connection_is_still_read(self, alarmed: House) -> None:
        peer = Peer(alarmed).connect(1)
        peer.send(publish(1, b"x", immediate=True))
        assert peer.host.holds == 0
        peer.ask(0, methods.ConnectionCloseOk())
        assert peer.session.is_closed

    def test_a_blocked_connection_that_is_closed_is_read_again(self, alarmed: House) -> None:
        peer = Peer(alarmed).connect(1)
        peer.send(publish(1, b"x"))
        peer.session.close(GOODBYE)
        assert peer.host.holds == 0
        alarmed.broker.alarms.update(memory_bytes=0, disk_free_bytes=1)
        assert peer.host.holds == 0


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
