"""The client libraries that the interop suite runs with."""

import os

from .aio_pika_client import AioPikaClient
from .face import Client
from .kombu_client import KombuClient
from .leveret_client import LeveretClient
from .pika_asyncio_client import PikaAsyncioClient
from .pika_blocking_client import PikaBlockingClient

FOREIGN_BROKER = os.environ.get("LEVERET_TEST_AMQP_URL")
"""The URL of a broker to run against, to prove the scenarios themselves; None: a daemon of this session."""

AMQP_CLIENTS: list[type[Client]] = [PikaBlockingClient, PikaAsyncioClient, AioPikaClient, KombuClient]
CLIENTS = AMQP_CLIENTS if FOREIGN_BROKER else [*AMQP_CLIENTS, LeveretClient]
