"""Leveret beside RabbitMQ: the same load on the same machine, in turn, in rounds; medians and their ratio."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

from . import amqp_load
from .amqp_load import Count
from .brokers import Broker, Leveret, RabbitMQ, Running, Usage
from .scenarios import SCENARIOS, Scenario

EXIT_TOO_SLOW = 1
EXIT_NOT_COMPARED = 2

HEADINGS = (
    f"{'':22}{'msg/s':>9} {'(spread)':>17}{'published':>11}"
    f"{'confirm p50':>13}{'p99 ms':>8}{'deliver p50':>13}{'p99 ms':>8}"
    f"{'cores':>7}{'us/msg':>8}{'RSS MB':>8}{'load':>6}"
)


@dataclass(frozen=True)
class Run:
    """One broker under one load, once. Rates are per second, times in milliseconds."""

    broker: str
    scenario: str
    rate: float  # messages through the broker: delivered, or confirmed where nobody consumes
    published: float  # confirmed, or sent where there are no confirms
    confirm_p50: float
    confirm_p99: float
    deliver_p50: float
    deliver_p99: float
    broker_cores: float
    broker_rss_peak_mb: float
    load_cores: float  # what the load generator itself took of the machine

    @property
    def broker_us_per_message(self) -> float:
        """CPU time: the figure that means something even while the machine has other work."""
        return self.broker_cores / self.rate * 1e6 if self.rate else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parse(arguments)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="leveret-bench-", dir=options.directory) as name:
        directory = Path(name)
        contestants = _contestants(options, directory)
        for scenario in map(SCENARIOS.__getitem__, options.scenarios):
            for number in range(options.rounds):
                for start in contestants:
                    with start(directory / f"{scenario.name}-{number}") as broker:
                        runs.append(measure(broker, scenario, options.size, options.seconds))
                    print(f"round {number + 1}: {_row(runs[-1:])}", file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    print(f"{options.size} bytes a message, {options.rounds} rounds of {options.seconds:g} s; medians")
    return _report(runs, options.scenarios, options.at_least)


def measure(broker: Broker, scenario: Scenario, size: int, seconds: float) -> Run:
    """Put one load on a broker that just started."""
    usages: list[Usage] = []
    publishers, consumers = amqp_load.run(
        scenario, broker.port, size, seconds, observe=lambda: usages.append(broker.usage())
    )
    if refused := sum(count.refused for count in publishers):
        print(f"WARNING: {broker.name} refused {refused} publishes", file=sys.stderr)
    published = sum(count.messages for count in publishers) / seconds
    delivered = sum(count.messages for count in consumers) / seconds
    return Run(
        broker=broker.name,
        scenario=scenario.name,
        rate=delivered if consumers else published,
        published=published,
        confirm_p50=_percentile(publishers, 0.50),
        confirm_p99=_percentile(publishers, 0.99),
        deliver_p50=_percentile(consumers, 0.50),
        deliver_p99=_percentile(consumers, 0.99),
        broker_cores=(usages[1].cpu_seconds - usages[0].cpu_seconds) / seconds,
        broker_rss_peak_mb=usages[1].rss_peak_bytes / 1e6,
        load_cores=sum(count.cpu_seconds for count in publishers + consumers) / seconds,
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    about = "; ".join(f"{scenario.name}: {scenario.about}" for scenario in SCENARIOS.values())
    parser.add_argument("scenarios", nargs="*", default=["durable"], metavar="SCENARIO", help=about)
    parser.add_argument("--seconds", type=float, default=5, help="the measured time of a run")
    parser.add_argument("--rounds", type=int, default=3, help="runs per broker and scenario")
    parser.add_argument("--size", type=int, default=1024, help="bytes of a body, 8 at least")
    parser.add_argument("--at-least", type=float, help="fail if Leveret is not so many times as fast")
    parser.add_argument("--leveret-only", action="store_true", help="do not run RabbitMQ")
    parser.add_argument("--url", help="measure only the AMQP broker that runs at 127.0.0.1:PORT")
    parser.add_argument("--sync-delay-ms", type=float, default=0, help="make each sync of the brokers slower")
    parser.add_argument("--directory", type=Path, help="where the brokers keep their data (a real disk)")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    options = parser.parse_args(arguments)
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return options


def _contestants(options: argparse.Namespace, directory: Path) -> list[Callable[[Path], Broker]]:
    if options.url:
        return [partial(Running, int(options.url.rpartition(":")[2].partition("/")[0]))]
    env = _slow_sync(options.sync_delay_ms, directory) if options.sync_delay_ms else {}
    contestants: list[Callable[[Path], Broker]] = [partial(Leveret, env=env)]
    if options.leveret_only:
        return contestants
    if not RabbitMQ.is_installed():
        print("NOT COMPARED: RabbitMQ is not installed (apt-get install rabbitmq-server)", file=sys.stderr)
        return contestants
    return [partial(RabbitMQ, env=env), *contestants]


def _slow_sync(delay_ms: float, directory: Path) -> dict[str, str]:
    """The environment under which every sync takes longer; needs a C compiler."""
    library = directory / "slow_sync.so"
    source = Path(__file__).with_name("slow_sync.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "SLOW_SYNC_US": str(round(delay_ms * 1000))}


def _report(runs: list[Run], scenarios: Sequence[str], at_least: float | None) -> int:
    """Print the table; the exit code says whether the wanted ratio was reached."""
    exit_code = 0
    print(HEADINGS)
    for scenario in scenarios:
        of_broker: dict[str, list[Run]] = {}
        for run in runs:
            if run.scenario == scenario:
                of_broker.setdefault(run.broker, []).append(run)
        for some in of_broker.values():
            print(_row(some))
        if {Leveret.name, RabbitMQ.name} <= of_broker.keys():
            leveret, rabbitmq = (
                median(run.rate for run in of_broker[name]) for name in (Leveret.name, RabbitMQ.name)
            )
            print(f"{scenario + ' ratio':22}{leveret / rabbitmq:9.2f}")
            if at_least is not None and leveret < at_least * rabbitmq:
                exit_code = EXIT_TOO_SLOW
        elif at_least is not None:
            exit_code = EXIT_NOT_COMPARED
    return exit_code


def _row(runs: list[Run]) -> str:
    def of(name: str) -> float:
        return float(median(getattr(run, name) for run in runs))

    rates = [run.rate for run in runs]
    spread = f"({min(rates):.0f}-{max(rates):.0f})"
    return (
        f"{runs[0].scenario + ' ' + runs[0].broker:22}{of('rate'):9.0f} {spread:>17}{of('published'):11.0f}"
        f"{of('confirm_p50'):13.2f}{of('confirm_p99'):8.1f}{of('deliver_p50'):13.2f}{of('deliver_p99'):8.1f}"
        f"{of('broker_cores'):7.2f}{of('broker_us_per_message'):8.1f}{of('broker_rss_peak_mb'):8.0f}"
        f"{of('load_cores'):6.2f}"
    )


def _percentile(counts: list[Count], fraction: float) -> float:
    latencies = sorted(latency for count in counts for latency in count.latencies_ms)
    return latencies[int(len(latencies) * fraction)] if latencies else 0.0
