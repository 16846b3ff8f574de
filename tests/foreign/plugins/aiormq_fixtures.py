"""A pytest plugin: the fixtures of the conftest.py that aiormq's sdist leaves out."""

import os
from types import SimpleNamespace

import pytest
from yarl import URL


@pytest.fixture(scope="session")
def rabbitmq_container() -> SimpleNamespace:
    ports = {"5672/tcp": int(os.environ["BROKER_PORT"]), "5671/tcp": 9}
    return SimpleNamespace(host=os.environ["BROKER_HOST"], ports=ports)


@pytest.fixture(scope="session")
def amqp_direct_url(rabbitmq_container: SimpleNamespace) -> URL:
    port = rabbitmq_container.ports["5672/tcp"]
    return URL.build(
        scheme="amqp", user="guest", password="guest", host=rabbitmq_container.host, port=port, path="//"
    )
