"""The same script on RabbitMQ and on Leveret shows the same, but for docs/rabbitmq-differences.md.

Without RabbitMQ these tests are skipped. `LEVERET_DIFFERENTIAL_SCRIPTS` says how many scripts are made (50),
`LEVERET_DIFFERENTIAL_SEED` from which seed, or `random` (`make differential`); the seed is printed. The gate
plays the same scripts every time: what a change breaks shows there, what nobody thought of in the long runs.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon import Daemon
from differential.duel import Duel
from differential.script import Script
from differential.strategies import scripts
from hypothesis import HealthCheck, Phase, given, seed, settings

from leveret.benchmarks.brokers import RabbitMQ

SCRIPTS = int(os.environ.get("LEVERET_DIFFERENTIAL_SCRIPTS", "50"))
SEED_OF_THE_GATE = "1"
WANTED_SEED = os.environ.get("LEVERET_DIFFERENTIAL_SEED", SEED_OF_THE_GATE)
SEED = random.SystemRandom().getrandbits(32) if WANTED_SEED == "random" else int(WANTED_SEED)
SECONDS_PER_SCRIPT = 20  # shrinking plays a script many times

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not RabbitMQ.is_installed(), reason="RabbitMQ is not installed: NOTHING WAS COMPARED"),
    pytest.mark.timeout(600 + SCRIPTS * SECONDS_PER_SCRIPT),
]


@pytest.fixture(scope="module")
def duel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Duel]:
    """RabbitMQ and Leveret, both empty."""

    def say(text: str) -> None:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print(f"\n{text}")

    say(f"LEVERET_DIFFERENTIAL_SEED={SEED} LEVERET_DIFFERENTIAL_SCRIPTS={SCRIPTS}")
    directory: Path = tmp_path_factory.mktemp("differential")
    with RabbitMQ(directory / "rabbitmq", {}) as rabbitmq, Daemon(directory / "leveret") as daemon:
        duel = Duel(rabbitmq.port, daemon.port)
        yield duel
        duel.close()
        say(f"{duel.played} scripts played; {duel.left_to_chance} of them had several right outcomes")


@seed(SEED)
@settings(
    max_examples=SCRIPTS,
    database=None,  # a failure is reproduced by its seed
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
)
@given(script=scripts())
def test_clients_see_the_same(duel: Duel, script: Script) -> None:
    difference = duel.difference(script)
    assert difference is None, f"LEVERET_DIFFERENTIAL_SEED={SEED}\n{difference}"
