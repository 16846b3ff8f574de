"""For tests of programs that use a broker: the real one, in the test's own process. No Docker, no mocks.

    with leveret.testing.Broker() as broker:
        ...  # broker.url is for this SDK, broker.amqp_url for pika, aio-pika, Celery

`plugin` gives pytest the fixtures `leveret_broker` and `leveret_connection`. docs/testing.md shows both.

Importing this package costs next to nothing: what makes up the broker is imported when the first one starts.
"""

from .broker import Broker

__all__ = ["Broker"]
