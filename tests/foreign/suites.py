"""The table of other people's test suites: what is run, of which version, and what is left out, and why.

`run.py` reads it. Nothing of these suites is kept in this repository: `fetching.py` fetches them.
"""

from dataclasses import dataclass, field

TLS = "needs TLS, which the broker of these runs is not given"
CLIENT = "fails with RabbitMQ 3.10, too, always or now and then: it is about the client's own futures"
GARBAGE = "fails now and then with RabbitMQ 3.10, too: it is about the client's garbage"
INTERNET = "talks to a host on the internet, not to the broker"
RESTART = "stops and restarts the broker: not done to one that somebody else started"


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite. Patterns are those of `fnmatch` for pytest node ids, but brackets mean themselves."""

    name: str
    version: str
    origin: str  # "pypi": the sdist; "debian:SUITE:SOURCE": the upstream tarball of a Debian source package
    requirements: tuple[str, ...]  # besides the library itself, in the same version, and PYTEST
    tests: tuple[str, ...]  # paths in the source that talk to a server
    options: tuple[str, ...] = ()  # of pytest
    environment: dict[str, str] = field(default_factory=dict)  # {host}, {port}, {docker} are filled in
    port_in_text: tuple[str, ...] = ()  # files with a fixed 5672, which is replaced by the real port
    quick: tuple[str, ...] = ()  # patterns: the subset for `--quick`
    exempt: dict[str, str] = field(default_factory=dict)  # pattern -> reason; it must match something
    exempt_elsewhere: dict[str, str] = field(default_factory=dict)  # the same with --url


PYTEST = ("pytest==9.2.0", "pytest-timeout==2.4.0")
AIOMISC = ("aiomisc==18.0.37", "aiomisc-pytest==2.0.0", "shortuuid==1.0.13", "timeout-decorator==0.5.0")
RABBITMQ_HOST = {"RABBITMQ_HOST": "{host}", "RABBITMQ_5672_TCP": "{port}"}

SUITES = (
    Suite(
        name="pika",
        version="1.3.2",
        origin="debian:trixie:python-pika",
        requirements=("gevent==26.9.0", "tornado==6.6.1", "twisted==26.10.0"),
        tests=("tests/acceptance/async_adapter_tests.py", "tests/acceptance/blocking_adapter_test.py"),
        options=("-o", "python_files=*_tests.py *_test.py"),
        port_in_text=("tests/base/async_test_base.py", "tests/acceptance/blocking_adapter_test.py"),
        quick=("*",),
    ),
    Suite(
        name="amqp",
        version="5.4.2",
        origin="pypi",
        requirements=(),
        tests=("t/integration/test_rmq.py",),
        options=("-o", "python_classes=test_*"),
        environment=RABBITMQ_HOST,
        quick=("*",),
        exempt={"*[tls*": TLS, "*test_tls_connect_fails*": TLS, "*default_certs*": INTERNET},
    ),
    Suite(
        name="kombu",
        version="5.7.0",
        origin="pypi",
        requirements=(),
        tests=("t/integration/test_py_amqp.py",),
        options=("-o", "python_classes=test_*"),
        environment=RABBITMQ_HOST,
        quick=("*ExchangeTypes*", "*Priority*", "*EventLoop*", "*ConnectionPool*", "*ConsumerRevive*"),
    ),
    Suite(
        name="aiormq",
        version="7.2.4",
        origin="pypi",
        requirements=AIOMISC,
        tests=("tests",),
        options=("-p", "aiormq_fixtures"),
        environment={"BROKER_HOST": "{host}", "BROKER_PORT": "{port}"},
        quick=("*test_channel.py*[amqp_channel0-amqp]", "*test_nowait.py*[amqp-True-*]"),
        exempt={
            "*[amqps*": TLS,
            "*-amqps*": TLS,
            "*test_ssl_*": TLS,
            "*test_closing_waiter_cancellation[*-connection-True]": CLIENT,
            "*test_connection_close_during_publish_drain*": CLIENT,
        },
    ),
    Suite(
        name="aio-pika",
        version="10.2.1",
        origin="pypi",
        requirements=("aiormq==7.2.4", *AIOMISC),
        tests=("tests",),
        environment={"DOCKER_HOST": "tcp://{docker}"},
        quick=("*test_amqp.py::TestCaseAmqp::*[connect]",),
        exempt={"tests/test_amqps.py*": TLS, "*test_leak_unclosed_channel*": GARBAGE},
        exempt_elsewhere={"tests/test_robust_recovery.py*": RESTART},
    ),
)
