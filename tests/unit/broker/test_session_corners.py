"""AMQP sessions at their limits: empty messages without end, alarms that meet the end."""

import pytest
from amqp_house import House, Peer
from amqp_peer import publish
from whole_broker import TRANSIENT

from leveret.broker.alarms import Limits
from leveret.protocol.amqp import methods
from leveret.protocol.errors import HardError
from leveret.protocol.reply_codes import ReplyCode

MEMORY = 1000
LIMITS = Limits(memory_bytes=MEMORY, disk_free_bytes=0)
GOODBYE = HardError(ReplyCode.CONNECTION_FORCED, "shutdown")


@pytest.fixture
def house() -> House:
    return House(LIMITS)


@pytest.fixture
def peer(house: House) -> Peer:
    return Peer.with_queue(house)


class TestEmptyMessages:
    def test_a_backlog_of_them_does_not_leave_in_one_turn(self, house: House, peer: Peer) -> None:
        queue = house.broker.vhosts["/"].queues["q"]
        peer.session._domain_channels[1].publish("", "q", False, False, TRANSIENT, [b""] * 20_000)
        peer.ask(1, methods.BasicConsume(queue="q", consumer_tag="c", no_ack=True))
        house.scheduled.pop(0)()
        assert 0 < queue.message_count < 20_000
        while queue.message_count:
            peer.said()
            house.end_turn()


class TestAlarm:
    def test_a_blocked_connection_that_ends_waits_for_nothing(self, house: House) -> None:
        alarms = house.broker.alarms
        lost, closed = Peer.with_queue(house), Peer.with_queue(house)
        alarms.update(MEMORY + 1, 0)
        for peer in (lost, closed):
            peer.send(publish(1, b"1"))
            assert peer.host.holds == 1
        lost.session.connection_lost()
        closed.session.close(GOODBYE)
        assert closed.host.holds == 0  # its close-ok must be read
        alarms.update(0, 0)
        assert (lost.host.holds, closed.host.holds) == (1, 0)
