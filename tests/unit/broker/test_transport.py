"""When a transport does not read: what it is told to wait for, and that it goes on."""

import asyncio

import pytest
from amqp_house import House

from leveret.broker.durability.spiller import Spiller
from leveret.broker.sessions import transport as module
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


async def test_it_waits_for_the_cleaner(house: House, transport: Transport, socket: FakeSocket) -> None:
    house.broker.journal.blobs.hold_publishers(True)
    transport.data_received(PROTOCOL_HEADER)
    house.commit()
    assert not socket.is_read
    house.broker.journal.blobs.hold_publishers(False)
    assert socket.is_read


async def test_it_waits_for_the_spiller(
    house: House, transport: Transport, socket: FakeSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Spiller, "is_behind", True)
    transport.data_received(PROTOCOL_HEADER)
    await house.broker.spiller.spill()
    assert not socket.is_read
    monkeypatch.setattr(Spiller, "is_behind", False)
    await house.broker.spiller.spill()
    assert socket.is_read
