"""The command line: one scenario, its table, an exit code."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from ..brokers import BrokerFailed
from .backlog import Backlog
from .claims import Report
from .fanout import Fanout
from .machine import Machine
from .pinned import Pinned, Survivors
from .queues import Queues
from .stage import NoRoom, Scenario, Stage

EXIT_FAILED = 1
EXIT_NOT_RUN = 2
SCENARIOS: dict[str, type[Scenario]] = {
    "backlog": Backlog,
    "pinned": Pinned,
    "survivors": Survivors,
    "queues": Queues,
    "fanout": Fanout,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = vars(_parser().parse_args(arguments))
    name, json_file, data_dir, ignoring_times = (
        options.pop(name) for name in ("scenario", "json", "data_dir", "ignore_times")
    )
    scenario = SCENARIOS[name](**options)
    report = Report(name)
    try:
        with tempfile.TemporaryDirectory(prefix="leveret-scale-", dir=data_dir) as directory:
            scenario.check_room(Path(directory))
            with Machine(Path(directory)) as machine:
                scenario.run(Stage(Path(directory), report, machine))
    except NoRoom as error:
        print(f"NOT RUN: {error}", file=sys.stderr)
        return EXIT_NOT_RUN
    except (BrokerFailed, OSError) as error:
        report.holds("the scenario runs to its end", f"no: {error}")
    failed = report.failed(ignoring_times=ignoring_times)
    print(f"{name}: {', '.join(f'{option} {value:,}' for option, value in scenario.options.items())}")
    print(report.table())
    if json_file:
        claims = [asdict(claim) for claim in report.claims]
        json_file.write_text(
            json.dumps({"scenario": name, "options": scenario.options, "claims": claims}, indent=1) + "\n"
        )
    return EXIT_FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    scenarios = parser.add_subparsers(dest="scenario", required=True, metavar="SCENARIO")
    for name, scenario in SCENARIOS.items():
        about = scenario.__doc__ or ""
        one = scenarios.add_parser(
            name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        for declared in fields(scenario):
            one.add_argument(
                f"--{declared.name.replace('_', '-')}",
                type=type(declared.default),
                default=declared.default,
                help=declared.metadata["about"],
            )
        one.add_argument("--data-dir", type=Path, help="where the broker keeps its data (a real disk)")
        one.add_argument("--json", type=Path, help="write what was measured to this file")
        one.add_argument(
            "--ignore-times", action="store_true", help="claims about time do not count for the exit code"
        )
    return parser
