"""A get whose message is on the disk only: it is answered when that was read, whatever happens meanwhile."""

from dataclasses import replace
from typing import Any

import amqp_house
import native_house
import pytest
from amqp_peer import Answer, Content, publish
from cold_messages import let_go, queue_of
from whole_broker import WholeBroker

from leveret.broker.sessions.native_session import HELD_REPLIES_MAX
from leveret.protocol.amqp import methods
from leveret.protocol.errors import SoftError
from leveret.protocol.native.layouts import FrameType as F
from leveret.protocol.reply_codes import ReplyCode
from leveret.storage.memory import MemoryEngine

GET = methods.BasicGet(queue="q")


@pytest.fixture
async def broker() -> WholeBroker:
    """The queue `q` with two messages, both on the disk only; it has been consumed from before."""
    engine = MemoryEngine()
    await engine.open()
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q")
    client.publish("q", b"0", b"1", b"2")
    await broker.commit()
    client.channel.get("q", no_ack=True)
    await broker.commit()
    client.connection.close()
    let_go(broker)
    return broker


class House(amqp_house.House):
    """An AMQP house whose broker has a log."""

    def __init__(self, broker: WholeBroker) -> None:
        super().__init__()
        self.whole = broker
        self.broker = broker.broker
        self.settings = replace(self.settings, broker=broker.broker)

    def end_turn(self) -> None:
        self.whole.end_turn()


class TestAmqp:
    @pytest.fixture
    def peer(self, broker: WholeBroker) -> amqp_house.Peer:
        return amqp_house.Peer(House(broker)).connect(1, 2)

    @staticmethod
    def kinds(answers: list[Answer]) -> list[type]:
        return [type(answer) for _, answer in answers]

    async def test_it_is_answered_in_its_turn(self, broker: WholeBroker, peer: amqp_house.Peer) -> None:
        assert peer.ask(1, GET, methods.BasicQos(), GET) == []
        assert peer.host.holds == 1
        await broker.read()
        said = peer.said()
        assert self.kinds(said) == [
            methods.BasicGetOk,
            Content,
            Content,
            methods.BasicQosOk,
            methods.BasicGetOk,
            Content,
            Content,
        ]
        gets = [answer for _, answer in said if isinstance(answer, methods.BasicGetOk)]
        assert [(get.delivery_tag, get.message_count) for get in gets] == [(1, 1), (2, 0)]
        assert peer.host.holds == 0

    async def test_what_came_before_is_answered_at_once(
        self, broker: WholeBroker, peer: amqp_house.Peer
    ) -> None:
        assert self.kinds(peer.ask(1, methods.BasicQos(), GET)) == [methods.BasicQosOk]
        await broker.read()
        assert self.kinds(peer.said())[0] is methods.BasicGetOk

    async def test_a_publish_behind_it_keeps_its_place(
        self, broker: WholeBroker, peer: amqp_house.Peer
    ) -> None:
        peer.ask(1, GET)
        assert queue_of(broker, "q").message_count == 2
        await broker.read()
        peer.said()
        peer.send(publish(1, b"3", routing_key="q"))
        assert queue_of(broker, "q").message_count == 2

    async def test_when_the_queue_is_purged_there_is_nothing(
        self, broker: WholeBroker, peer: amqp_house.Peer
    ) -> None:
        peer.ask(1, GET)
        broker.client().channel.queue_purge("q")
        broker.end_turn()
        assert self.kinds(peer.said()) == [methods.BasicGetEmpty]
        assert peer.host.holds == 0

    async def test_when_the_queue_is_deleted_there_is_no_queue(
        self, broker: WholeBroker, peer: amqp_house.Peer
    ) -> None:
        peer.ask(1, GET)
        broker.client().channel.queue_delete("q", if_unused=False, if_empty=False)
        ((number, close),) = peer.said()
        assert isinstance(close, methods.ChannelClose)
        assert (number, close.reply_code) == (1, 404)
        assert peer.host.holds == 0

    async def test_when_another_was_quicker_the_next_one_comes(
        self, broker: WholeBroker, peer: amqp_house.Peer
    ) -> None:
        other = amqp_house.Peer(peer.house).connect(1)
        peer.ask(1, GET)
        other.ask(1, GET)
        await broker.read()
        assert self.kinds(peer.said())[0] is self.kinds(other.said())[0] is methods.BasicGetOk
        assert queue_of(broker, "q").message_count == 0

    async def test_a_lost_connection_is_not_answered(
        self, broker: WholeBroker, peer: amqp_house.Peer
    ) -> None:
        peer.ask(1, GET)
        peer.session.connection_lost()
        await broker.read()
        assert peer.said() == []
        assert queue_of(broker, "q").message_count == 2
        assert queue_of(broker, "q").unacked_count == 0

    async def test_a_channel_that_failed_meanwhile_is_not_answered(
        self, broker: WholeBroker, peer: amqp_house.Peer
    ) -> None:
        peer.ask(1, GET)
        (connection,) = broker.broker.connections
        connection.channels[1].wire.close_channel(SoftError(ReplyCode.PRECONDITION_FAILED, "timed out"))
        assert self.kinds(peer.said()) == [methods.ChannelClose]
        await broker.read()
        assert peer.said() == []
        assert peer.host.holds == 0
        assert self.kinds(peer.ask(2, methods.BasicQos())) == [methods.BasicQosOk]
        assert queue_of(broker, "q").message_count == 2


class TestNative:
    @pytest.fixture
    def peer(self, broker: WholeBroker) -> native_house.Peer:
        return native_house.Peer(broker).open()

    async def get(self, peer: native_house.Peer) -> list[Any]:
        return peer.request(F.GET, "q")

    async def test_it_is_answered_when_it_was_read(
        self, broker: WholeBroker, peer: native_house.Peer
    ) -> None:
        assert await self.get(peer) == []
        await broker.read()
        (reply,) = peer.read()
        assert reply[2][5] == b"1"

    async def test_when_the_queue_is_purged_there_is_nothing(
        self, broker: WholeBroker, peer: native_house.Peer
    ) -> None:
        assert await self.get(peer) == []
        broker.client().channel.queue_purge("q")
        broker.end_turn()
        (reply,) = peer.read()
        assert reply[2] == [None]

    async def test_when_the_queue_is_deleted_there_is_no_queue(
        self, broker: WholeBroker, peer: native_house.Peer
    ) -> None:
        assert await self.get(peer) == []
        broker.client().channel.queue_delete("q", if_unused=False, if_empty=False)
        (reply,) = peer.read()
        assert reply[0] == F.ERROR
        assert 404 in reply

    async def test_a_closed_channel_is_told_so(self, broker: WholeBroker, peer: native_house.Peer) -> None:
        assert await self.get(peer) == []
        peer.request(F.CHANNEL_CLOSE)
        await broker.read()
        (reply,) = peer.read()
        assert reply[0] == F.ERROR
        assert queue_of(broker, "q").message_count == 2

    async def test_a_new_channel_with_the_number_of_a_closed_one_does_not_get_its_message(
        self, broker: WholeBroker, peer: native_house.Peer
    ) -> None:
        assert await self.get(peer) == []
        peer.request(F.CHANNEL_CLOSE)
        peer.open()
        await broker.read()
        (reply,) = peer.read()
        assert reply[0] == F.ERROR
        assert queue_of(broker, "q").message_count == 2

    async def test_a_client_that_asks_for_very_much_has_to_wait(
        self, broker: WholeBroker, peer: native_house.Peer
    ) -> None:
        for number in range(HELD_REPLIES_MAX):
            peer.protocol.send(F.GET, number + 10, 1, "q", True)
        assert peer.exchange() == []
        assert peer.host.holds == 1
        await broker.read()
        assert len(peer.read()) == HELD_REPLIES_MAX
        assert peer.host.holds == 0

    async def test_an_answer_that_cannot_be_made_is_the_end_of_this_connection_only(
        self, broker: WholeBroker, peer: native_house.Peer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert await self.get(peer) == []
        other = native_house.Peer(broker).open()
        assert await self.get(other) == []
        monkeypatch.setattr(peer.session, "_execute", None)
        await broker.read()
        assert [event[0] for event in peer.read()] == [F.CLOSE]
        (reply,) = other.read()
        assert reply[0] == F.REPLY

    async def test_a_lost_connection_is_not_answered(
        self, broker: WholeBroker, peer: native_house.Peer
    ) -> None:
        assert await self.get(peer) == []
        peer.session.connection_lost()
        await broker.read()
        assert peer.session.take_output() == []
        assert queue_of(broker, "q").unacked_count == 0
