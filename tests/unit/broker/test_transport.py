"""When a transport does not read: what it is told to wait for, and that it goes on."""

import asyncio

import pytest
from amqp_house import House

from leveret.broker.durability.spiller import Spiller
from leveret.broker.sessions import transport as module
from leveret.broker.sessions.amqp_session import AmqpSession
from leveret.broker.sessions.transport import Transport
from leveret.protocol.amqp.connection import PROTOCOL_HEADER


class FakeSocket(asyncio.Transport):
    """Notes whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """It takes everything at once."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: object) -> None:
        """Nobody looks at it."""

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        self.is_read = False

    def resume_reading(self) -> None:
        self.is_read = True


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
def socket() -> FakeSocket:
    return FakeSocket()


@pytest.fixture
async def transport(house: House, socket: FakeSocket) -> Transport:
    transport = Transport(house.settings, 60, on_open=lambda _: None, on_close=lambda _: None)
    transport.connection_made(socket)
    return transport


async def test_it_reads(transport: Transport, socket: FakeSocket) -> None:
    transport.data_received(PROTOCOL_HEADER)
    assert socket.is_read


async def test_it_waits_for_the_log(
    house: House, transport: Transport, socket: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UNCOMMITTED_HIGH_BYTES", -1)
    transport.data_received(PROTOCOL_HEADER)
    assert not socket.is_read
    house.commit()
    assert socket.is_read


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The spiller lets nobody who has to wait for it go on; what it was asked for."""
    asked: list[int] = []

    def hold_s(_: Spiller, size: int, now_s: float) -> float:
        asked.append(size)
        return 3600.0

    monkeypatch.setattr(Spiller, "hold_s", hold_s)
    return asked


class Load:
    """What a read does to the broker, in the place of a session that takes it apart."""

    def __init__(self, house: House, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
        transport.data_received(PROTOCOL_HEADER)
        self.published = self.pending_bytes = 0
        broker = house.broker

        self.seconds = 0.0
        self.received: list[bytes] = []
        monkeypatch.setattr(module.time, "perf_counter", lambda: self._now_s)
        self._now_s = 0.0

        def receive_data(_: AmqpSession, data: bytes) -> None:
            self.received.append(data)
            self._now_s += self.seconds
            broker.counters.published += self.published
            broker.journal.pending_bytes += self.pending_bytes

        monkeypatch.setattr(AmqpSession, "receive_data", receive_data)

    def begin(self, transport: Transport) -> None:
        """What is read takes no time, and the transport has seen that."""
        transport.data_received(bytes(module.PIECE_BYTES_MIN))
        self.received.clear()


@pytest.fixture
def load(house: House, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> Load:
    return Load(house, transport, monkeypatch)


LARGE = bytes(module.FAIR_READ_BYTES)


async def test_a_publisher_of_transient_messages_goes_at_the_pace_of_the_spiller(
    load: Load, transport: Transport, socket: FakeSocket, holds: list[int]
) -> None:
    load.begin(transport)
    load.published = 10
    transport.data_received(LARGE)
    assert holds == [len(LARGE)]
    await asyncio.sleep(0)
    assert not socket.is_read


@pytest.mark.parametrize(("published", "pending_bytes"), [(10, 1000), (0, 0)], ids=["durable", "acks"])
async def test_others_only_let_the_turn_end(
    load: Load, transport: Transport, socket: FakeSocket, holds: list[int], published: int, pending_bytes: int
) -> None:
    load.published, load.pending_bytes = published, pending_bytes
    transport.data_received(LARGE)
    assert not socket.is_read
    assert holds == []
    await asyncio.sleep(0.001)
    assert socket.is_read


async def test_who_has_published_waits_for_the_cleaner(
    house: House, load: Load, transport: Transport, socket: FakeSocket
) -> None:
    blobs = house.broker.journal.blobs
    blobs.hold_publishers(True)
    transport.data_received(b"acks")
    assert socket.is_read
    load.published, load.pending_bytes = 1, 1000
    transport.data_received(b"a publish")
    assert not socket.is_read
    blobs.hold_publishers(False)
    assert socket.is_read


async def test_who_has_published_waits_for_the_spiller(
    house: House, load: Load, transport: Transport, socket: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spiller, "is_behind", True)
    transport.data_received(b"acks")
    assert socket.is_read
    load.published = 1
    transport.data_received(b"a publish")
    await house.broker.spiller.spill()
    assert not socket.is_read
    monkeypatch.setattr(Spiller, "is_behind", False)
    await house.broker.spiller.spill()
    assert socket.is_read


async def test_a_large_transient_message_goes_at_that_pace_as_a_whole(
    load: Load, transport: Transport, holds: list[int]
) -> None:
    load.begin(transport)
    for _ in range(3):
        transport.data_received(LARGE)
    assert holds == []
    load.published = 1
    transport.data_received(b"its end")
    assert holds == [3 * len(LARGE) + len(b"its end")]


MANY = bytes(range(256)) * 1000


async def turn() -> None:
    """The other callbacks have been called."""
    await asyncio.sleep(0)


async def test_what_is_quick_is_taken_at_once(load: Load, transport: Transport) -> None:
    load.begin(transport)
    load.seconds = 0.001
    transport.data_received(MANY)
    transport.data_received(MANY)
    assert load.received == [MANY, MANY]


async def test_what_takes_long_is_taken_in_pieces(
    load: Load, transport: Transport, socket: FakeSocket
) -> None:
    """Thousands of acks, say: each turn of the loop has a piece of them, and nothing is read meanwhile."""
    load.seconds = 1.0
    transport.data_received(MANY)
    turns = 0
    while b"".join(load.received) != MANY:
        assert not socket.is_read
        assert len(load.received) == turns + 1
        await turn()
        turns += 1
    assert turns > 10
    for _ in range(3):
        await turn()
    assert socket.is_read
    assert b"".join(load.received) == MANY


async def test_the_rest_waits_for_what_everything_waits_for(
    house: House, load: Load, transport: Transport, socket: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.seconds = 0.02
    with monkeypatch.context() as patch:
        patch.setattr(module, "UNCOMMITTED_HIGH_BYTES", -1)
        transport.data_received(MANY)
    taken = len(load.received)
    for _ in range(5):
        await turn()
    assert len(load.received) == taken
    assert not socket.is_read
    house.commit()
    load.seconds = 0.0
    for _ in range(100):
        await turn()
    assert b"".join(load.received) == MANY
    assert socket.is_read


async def test_nothing_more_is_taken_of_a_peer_that_is_gone(load: Load, transport: Transport) -> None:
    load.seconds = 1.0
    transport.data_received(MANY)
    transport.connection_lost(None)
    for _ in range(5):
        await turn()
    assert len(load.received) == 1
