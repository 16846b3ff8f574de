"""How the broker leaves its clients when it is told to stop."""

import pika
import pytest
from daemon import TIMEOUT_FACTOR, Daemon
from pika.exceptions import AMQPError


def test_a_client_that_does_not_look_does_not_hold_up_the_stop(daemon: Daemon) -> None:
    """Such as the connections in the pool of a web application that publishes now and then."""
    connection = pika.BlockingConnection(pika.URLParameters(daemon.amqp_url))
    assert daemon.terminate(timeout_s=5 * TIMEOUT_FACTOR) == 0
    with pytest.raises(AMQPError, match="shutdown"):
        connection.channel()
