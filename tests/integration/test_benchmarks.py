"""The benchmarks run, and every message that they publish is accounted for; how fast is not judged here."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from daemon import TIMEOUT_FACTOR, Daemon

from leveret.benchmarks.brokers import RabbitMQ, Running
from leveret.benchmarks.compare import compare
from leveret.benchmarks.load.link import Address
from leveret.benchmarks.load.wires import WIRES
from leveret.benchmarks.measure import measure
from leveret.benchmarks.scenarios import SCENARIOS, Backlog, Flow, Scenario
from leveret.benchmarks.subject import Subject, Timing

ROOT = Path(__file__).parents[2]
SHORT = Timing(warm_up_s=0.05, seconds=0.1)
LONGER = Timing(warm_up_s=0.5, seconds=5)  # on a machine that has hardly any time for it
PATIENCE_S = 100 * TIMEOUT_FACTOR  # for processes that start others
pytestmark = pytest.mark.timeout(240 * TIMEOUT_FACTOR)


def small(scenario: Scenario) -> Scenario:
    """So that it takes a fraction of a second."""
    match scenario:
        case Flow():
            return replace(
                scenario,
                publishers=min(scenario.publishers, 5),
                queues=min(scenario.queues, 10),
                consumers=min(scenario.consumers, 10),
            )
        case Backlog():
            return replace(scenario, messages=2000)
    return scenario


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_runs_and_loses_nothing(name: str, wire: str, shared_daemon: Daemon) -> None:
    broker = Running(Address(shared_daemon.port))

    for timing in (SHORT, LONGER):
        run = measure(small(SCENARIOS[name]), Subject("here", broker, wire, timing))
        if run.messages > 0 or run.problem:
            break

    assert run.problem == ""
    assert run.messages > 0
    assert list(run.deliver_ms.values()) == sorted(run.deliver_ms.values())


@pytest.mark.parametrize("wire", WIRES)
def test_what_waits_in_a_queue_may_stay_there(wire: str, shared_daemon: Daemon) -> None:
    broker = Running(Address(shared_daemon.port))
    flow = Flow("some", "messages wait before it begins", waiting=20_000)

    run = measure(flow, Subject("here", broker, wire, SHORT))

    assert run.problem == ""


def test_the_command_starts_a_broker_and_writes_what_it_found(tmp_path: Path) -> None:
    report, plot = tmp_path / "runs.json", tmp_path / "runs.svg"
    command = [sys.executable, "-m", "leveret", "bench", "pair", "--runs=2", "--seconds=0.5", "--warm-up=0.1"]

    subprocess.run([*command, f"--json={report}", f"--plot={plot}"], check=True, timeout=PATIENCE_S)

    runs = json.loads(report.read_text())["runs"]
    assert [run["scenario"] for run in runs] == ["pair", "pair"]
    assert all(run["broker_cpu_s"] > 0 and run["rss_mb"] > 0 and run["load_cores"] > 0 for run in runs)
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_a_revision_is_compared_with_this_tree(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.compare", "HEAD", "--only=one-by-one", "--runs=1"]
    times = ["--seconds=0.2", "--warm-up=0.1"]

    done = subprocess.run(
        [*command, *times], cwd=ROOT, check=True, timeout=PATIENCE_S, capture_output=True, text=True
    )

    assert "HEAD amqp" in done.stdout
    assert "this tree amqp" in done.stdout
    assert "not compared" not in done.stdout


def test_without_rabbitmq_nothing_is_said_to_be_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RabbitMQ, "is_installed", lambda: False)
    times = ["--runs=1", "--seconds=0.2", "--warm-up=0.1"]

    exit_code = compare.main(["--only=one-by-one", *times], standalone_mode=False)

    output = capsys.readouterr()
    assert exit_code == 2
    assert "not compared" in output.out
    assert "NOT COMPARED" in output.err


def test_a_curve_is_drawn(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.curves", "sizes", "--up-to=16", f"--out={tmp_path}"]

    subprocess.run(
        [*command, "--runs=1", "--seconds=0.2", "--warm-up=0.1"], cwd=ROOT, check=True, timeout=PATIENCE_S
    )

    texts = {element.text for element in ElementTree.parse(tmp_path / "sizes.svg").iter()}
    assert {"16 B", "leveret amqp", "leveret native", "messages per second"} <= texts
    assert len(json.loads((tmp_path / "sizes.json").read_text())["runs"]) == 2


def test_nothing_is_left_behind_when_it_is_ended(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "leveret", "bench", "--seconds=60", f"--directory={tmp_path}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as bench:
        deadline = time.monotonic() + PATIENCE_S
        while not list(tmp_path.glob("*/*/data")) and time.monotonic() < deadline:
            time.sleep(0.05)
        bench.terminate()
        _, said = bench.communicate(timeout=PATIENCE_S)

    assert (bench.returncode, said.strip()) == (1, "leveret: interrupted")
    assert list(tmp_path.iterdir()) == []


def test_a_broker_that_is_not_there_is_a_failure() -> None:
    command = [sys.executable, "-m", "leveret", "bench", "--url=amqp://127.0.0.1:1", "--runs=1"]

    done = subprocess.run(command, check=False, timeout=PATIENCE_S, capture_output=True, text=True)

    assert done.returncode == 1
    assert "FAILED: pair on 127.0.0.1:1: ConnectionRefusedError" in done.stderr
