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
    """What a large read does to the broker, in the place of a session that takes it apart."""

    def __init__(self, house: House, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
        transport.data_received(PROTOCOL_HEADER)
        self.published = self.pending_bytes = 0
        broker = house.broker

        def receive_data(_: AmqpSession, data: bytes) -> None:
            broker.counters.published += self.published
            broker.journal.pending_bytes += self.pending_bytes

        monkeypatch.setattr(AmqpSession, "receive_data", receive_data)


@pytest.fixture
def load(house: House, transport: Transport, monkeypatch: pytest.MonkeyPatch) -> Load:
    return Load(house, transport, monkeypatch)


LARGE = bytes(module.FAIR_READ_BYTES)


async def test_a_publisher_of_transient_messages_goes_at_the_pace_of_the_spiller(
    load: Load, transport: Transport, socket: FakeSocket, holds: list[int]
) -> None:
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
    for _ in range(3):
        transport.data_received(LARGE)
    assert holds == []
    load.published = 1
    transport.data_received(b"its end")
    assert holds == [3 * len(LARGE) + len(b"its end")]
