"""`leveret.testing.Broker`: the real broker in the test's own process."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import urllib.request

import aio_pika
import pika
import pytest
from daemon import TIMEOUT_FACTOR
from pika.adapters.blocking_connection import BlockingChannel

import leveret
from leveret.broker.daemon.config import ConfigError
from leveret.testing import Broker

PATIENCE_S = 20 * TIMEOUT_FACTOR
PERSISTENT = pika.BasicProperties(delivery_mode=2)

ON_ITS_OWN = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"lmdb", "aiohttp", "prometheus_client", "click"}:
            raise ImportError(f"{name} makes the start slow")

sys.meta_path.insert(0, Blocker())
from leveret.testing import Broker
assert "leveret.broker" not in sys.modules, "importing the package should cost nothing"
broker = Broker()
print(broker.url)
# not stopped: the end of the process must see to it
"""


def on_amqp(broker: Broker) -> BlockingChannel:
    return pika.BlockingConnection(pika.URLParameters(broker.amqp_url)).channel()


async def test_both_wires_see_the_same_broker() -> None:
    async with Broker() as broker, leveret.connect(broker.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("jobs")
        await channel.publish(leveret.Message(b"work"), "jobs")
        amqp = await asyncio.to_thread(on_amqp, broker)
        assert amqp.basic_get("jobs", auto_ack=True)[2] == b"work"
        amqp.connection.close()


def test_several_at_once_share_nothing() -> None:
    with Broker() as one, Broker() as other:
        assert one.port != other.port
        channels = [on_amqp(broker) for broker in (one, other)]
        channels[0].queue_declare("jobs")
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
            channels[1].queue_declare("jobs", passive=True)
        for channel in channels:
            channel.connection.close()


@pytest.mark.parametrize(("storage", "kept"), [("disk", 1), ("memory", 0)])
def test_a_restart_keeps_the_urls_and_what_is_on_disk(storage: str, kept: int) -> None:
    with Broker(storage=storage, http=True) as broker:  # type: ignore[arg-type] # two literals
        urls = broker.url, broker.amqp_url, broker.http_url
        channel = on_amqp(broker)
        channel.confirm_delivery()
        channel.queue_declare("jobs", durable=True)
        channel.basic_publish("", "jobs", b"work", PERSISTENT)
        broker.restart()
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            channel.connection.process_data_events()
        assert (broker.url, broker.amqp_url, broker.http_url) == urls
        channel = on_amqp(broker)
        assert channel.queue_declare("jobs", durable=True).method.message_count == kept
        channel.connection.close()


def test_stopping_leaves_nothing_behind() -> None:
    def left() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    with Broker(storage="disk", http=True) as broker:  # the first one imports things
        path = broker.data_dir
        assert path is not None
    assert not path.exists()
    before = left()
    for storage in ("memory", "disk"):
        with Broker(storage=storage, http=True) as broker:  # type: ignore[arg-type] # two literals
            connection = on_amqp(broker).connection
        with pytest.raises(pika.exceptions.AMQPConnectionError):
            connection.process_data_events()
    assert left() == before
    broker.stop()
    assert repr(broker) == "<Broker, stopped>"
    for use in (lambda: broker.url, lambda: broker.amqp_url, lambda: broker.http_url, broker.restart):
        with pytest.raises(RuntimeError, match="was stopped"):
            use()


async def test_a_client_of_the_loop_that_leaves_hears_of_the_end() -> None:
    async with Broker() as broker:
        connection = await aio_pika.connect(broker.amqp_url)
        why: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        connection.close_callbacks.add(lambda _, error: why.set_result(error))
    async with asyncio.timeout(PATIENCE_S):
        assert "CONNECTION_FORCED" in str(await why)


def test_http_is_there_when_asked_for() -> None:
    with Broker(http=True) as broker, urllib.request.urlopen(f"{broker.http_url}/readyz") as answer:
        assert answer.status == 200
    with Broker() as broker, pytest.raises(RuntimeError, match=r"make it with Broker\(http=True\)"):
        _ = broker.http_url


def test_options_are_those_of_the_command() -> None:
    with Broker(message_size_max_bytes=3) as broker:
        channel = on_amqp(broker)
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.AMQPError, match="larger than configured max size 3"):
            channel.basic_publish("", "jobs", b"four")
        channel.connection.close()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"heartbeats": 5}, "unknown option heartbeats, did you mean heartbeat_s?"),
        ({"heartbeat_s": -1}, "heartbeat_s must be at least 0"),
        ({"data_dir": "x"}, "data_dir is not for a test to choose"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Broker(**options)  # type: ignore[arg-type] # that is what is tested
    assert text in str(caught.value)


def test_what_goes_wrong_at_the_start_is_raised() -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
        Broker(host="192.0.2.1", storage="disk")  # an address that no machine has
    assert threading.active_count() == before


def test_an_unknown_storage_is_refused() -> None:
    with pytest.raises(ValueError, match="storage must be memory or disk, not 'ram'"):
        Broker(storage="ram")  # type: ignore[arg-type] # that is what is tested


def test_in_memory_it_needs_few_imports_and_no_stop_at_exit() -> None:
    """What takes long to import would be most of the time that a first test waits."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", ON_ITS_OWN]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("leveret://guest:guest@127.0.0.1:")
    assert "Traceback" not in result.stderr
