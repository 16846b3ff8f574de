"""Memory that runs short: publishers are blocked, consumers go on, and with what they settle the alarm ends.

Messages that wait do not fill the memory: they are spilled. What consumers hold unacked does.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from adapters.leveret_client import LeveretClient
from adapters.pika_asyncio_client import PikaAsyncioClient
from daemon import TIMEOUT_FACTOR, Daemon
from flow import Consumer, FlowClient, Publisher, flowing, metrics, until

from leveret.broker.daemon.resources import memory_of_machine

MIB = 1024 * 1024
LIMIT_BYTES = 160 * MIB
BODY_BYTES = 16 * 1024
LIBRARIES: list[FlowClient] = [PikaAsyncioClient, LeveretClient]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120 * TIMEOUT_FACTOR),
]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    share = LIMIT_BYTES / memory_of_machine()
    with Daemon(tmp_path / "data", "--memory-high-watermark", f"{share:.9f}") as daemon:
        yield daemon


@pytest.mark.parametrize("library", LIBRARIES)
async def test_publishers_wait_until_consumers_have_freed_memory(daemon: Daemon, library: FlowClient) -> None:
    client = await library.connect(library.url(daemon.amqp_url))
    await (await client.open_channel()).declare_queue("q")
    publisher, hoarder, consumer = (
        Publisher("p", BODY_BYTES, persistent=False),
        Consumer(keep_every=1),
        Consumer(),
    )
    async with flowing(daemon, publisher.run(library, daemon, "q")):
        async with flowing(daemon, hoarder.run(library, daemon, "q")):
            await until(lambda: publisher.is_blocked, "blocked", daemon)
            found = metrics(daemon)
            assert found["leveret_alarm_active", (("resource", "memory"),)] == 1
            assert LIMIT_BYTES * 0.95 < found["leveret_memory_used_bytes", ()] < LIMIT_BYTES * 2
            full = len(publisher.confirmed)
        async with flowing(daemon, consumer.run(library, daemon, "q")):
            await until(lambda: len(publisher.confirmed) > full + 1000, "unblocked", daemon)
            await publisher.stop()
            await until(lambda: len(consumer.received) == len(publisher.confirmed), "all received", daemon)
    assert len(hoarder.kept) * BODY_BYTES > LIMIT_BYTES / 4
    assert sorted(consumer.received) == sorted(publisher.confirmed)
    await client.close()
