"""The pytest plugin in a project of a user: whatever client it uses, in either mode of pytest-asyncio."""

import pytest

pytest_plugins = ["pytester"]

CONFIGURATION = """
[pytest]
addopts = --strict-markers -p no:randomly
filterwarnings = error
{}
"""
ASYNCIO = """
asyncio_mode = {}
asyncio_default_fixture_loop_scope = function
"""

SDK = """
import leveret
import pytest

{mark}
async def test_a_message_arrives(leveret_connection):
    channel = await leveret_connection.channel()
    queue = await channel.declare_queue("jobs")
    await channel.publish(leveret.Message(b"work"), "jobs")
    async for message in queue:
        async with message.process():
            assert message.body == b"work"
            break
    await channel.publish(leveret.Message(b"stays"), "jobs")

{mark}
async def test_nothing_is_left_of_another_test(leveret_connection, leveret_broker):
    assert str(leveret_broker.port) in str(leveret_connection)
    with pytest.raises(leveret.NotFound):
        await (await leveret_connection.channel()).get_queue("jobs")
"""

PIKA = """
import pika
import pytest

@pytest.fixture
def channel(leveret_broker):
    with pika.BlockingConnection(pika.URLParameters(leveret_broker.amqp_url)) as connection:
        yield connection.channel()

def test_a_message_arrives(channel):
    channel.queue_declare("jobs")
    channel.basic_publish("", "jobs", b"work")
    assert channel.basic_get("jobs", auto_ack=True)[2] == b"work"

@pytest.mark.leveret_broker(storage="disk")
def test_a_restart(leveret_broker):
    url = pika.URLParameters(leveret_broker.amqp_url)
    with pika.BlockingConnection(url) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare("jobs", durable=True)
        channel.basic_publish("", "jobs", b"work", pika.BasicProperties(delivery_mode=2))
    leveret_broker.restart()
    with pika.BlockingConnection(url) as connection:
        assert connection.channel().basic_get("jobs")[2] == b"work"
"""

WRONG_MARKS = """
import pytest

@pytest.mark.leveret_broker("disk")
def test_without_a_name(leveret_broker): ...

@pytest.mark.leveret_broker(storage="ssd")
def test_with_a_wrong_value(leveret_broker): ...
"""

AIO_PIKA = """
import aio_pika

async def test_a_message_arrives(leveret_broker):
    async with await aio_pika.connect_robust(leveret_broker.amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("jobs")
        await channel.default_exchange.publish(aio_pika.Message(b"work"), "jobs")
        assert (await queue.get()).body == b"work"
"""

CELERY = """
import celery
from celery.contrib.testing.worker import start_worker

def test_a_task_runs(leveret_broker):
    app = celery.Celery("shop", broker=leveret_broker.amqp_url, backend="rpc://")

    @app.task
    def add(a, b):
        return a + b

    with start_worker(app, perform_ping_check=False, without_heartbeat=False):
        assert add.delay(2, 3).get(timeout=20) == 5
"""

ANYIO = """
import pytest

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


def test_a_project_with_clients_of_every_kind(pytester: pytest.Pytester) -> None:
    pytester.makeini(CONFIGURATION.format(ASYNCIO.format("auto")))
    pytester.makepyfile(
        test_sdk=SDK.format(mark=""), test_pika=PIKA, test_aio_pika=AIO_PIKA, test_celery=CELERY
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=6)


def test_a_mark_that_makes_no_sense(pytester: pytest.Pytester) -> None:
    pytester.makeini(CONFIGURATION.format(ASYNCIO.format("auto")))
    pytester.makepyfile(WRONG_MARKS)
    result = pytester.runpytest_subprocess()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines_random(
        ["*TypeError: *positional*", "*ValueError: storage must be*not 'ssd'*"]
    )
    result.stdout.no_fnmatch_line("*raised in repr*")


def test_asyncio_in_strict_mode(pytester: pytest.Pytester) -> None:
    pytester.makeini(CONFIGURATION.format(ASYNCIO.format("strict")))
    pytester.makepyfile(test_sdk=SDK.format(mark="@pytest.mark.asyncio"))
    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_without_pytest_asyncio(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """anyio's plugin does as well; without either the synchronous fixture is still there."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini(CONFIGURATION.format("").replace("-p no:randomly", "-p anyio -p leveret.testing.plugin"))
    pytester.makepyfile(pytest_asyncio="raise ImportError('not installed')")
    pytester.makeconftest(ANYIO)
    pytester.syspathinsert()
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    pytester.makepyfile(test_sdk=SDK.format(mark="@pytest.mark.anyio"))
    pytester.runpytest_subprocess().assert_outcomes(passed=2)
