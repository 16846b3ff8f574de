"""Runs other people's test suites against Leveret:
`python tests/foreign/run.py [--quick] [--url URL] [suite...]`.

Prints `name: N passed, N failed, N skipped, N exempt` for each suite and its failures under it; the exit code
is 1 when something failed. A suite that cannot be fetched is skipped, and the line says so.
`--url amqp://guest:guest@127.0.0.1:5672` runs them against a broker of this machine, say a RabbitMQ.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

from daemon import Daemon  # noqa: E402  # tests/support is not a package
from docker_stand_in import OPTIONS, DockerStandIn  # noqa: E402
from fetching import CACHE, Unavailable, fetch_source, make_venv  # noqa: E402
from suites import SUITES, Suite  # noqa: E402

SUITE_TIMEOUT_S = 1800
PYTEST_OPTIONS = (
    *("-q", "--durations=15", "--timeout=120", "-p", "selection", "-p", "no:cacheprovider"),
    *("-c", os.devnull, "--rootdir=."),  # neither their configuration nor ours
)


@dataclass
class Result:
    """How a suite went; `failures` also names exemptions that nothing needs any more."""

    counts: dict[str, int]
    failures: list[str]

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in self.counts.items())
        return "\n".join([counts, *(f"  failed: {failure}" for failure in self.failures)])


def main() -> int:
    arguments = parse_arguments()
    failed = False
    for suite in SUITES:
        if arguments.suites and suite.name not in arguments.suites:
            continue
        try:
            result = run(suite, arguments.url, quick=arguments.quick)
        except Unavailable as error:
            print(f"{suite.name}: SKIPPED, it cannot be had here: {error}", flush=True)
        else:
            print(f"{suite.name}: {result}", flush=True)
            failed = failed or bool(result.failures)
    return int(failed)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run other people's test suites against Leveret.")
    parser.add_argument("suites", nargs="*", metavar="suite", help=", ".join(suite.name for suite in SUITES))
    parser.add_argument("--url", help="a broker that runs already; otherwise a Leveret is started")
    parser.add_argument("--quick", action="store_true", help="a subset that takes seconds")
    arguments = parser.parse_args()
    unknown = set(arguments.suites) - {suite.name for suite in SUITES}
    if unknown:
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    return arguments


def run(suite: Suite, url: str | None, *, quick: bool) -> Result:
    """Fetch the suite if need be, start a broker if need be, run the one against the other."""
    source, python = fetch_source(suite), make_venv(suite)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leveret-foreign-")))
        if url is None:
            port = stack.enter_context(Daemon(scratch / "data", *OPTIONS)).port
            docker = stack.enter_context(DockerStandIn())
        else:
            port = urlsplit(url).port or 5672
            docker = stack.enter_context(DockerStandIn(port))
        facts = {"host": "127.0.0.1", "port": str(port), "docker": docker.address}
        environment = {name: text.format(**facts) for name, text in suite.environment.items()}
        exempt = [*suite.exempt, *(suite.exempt_elsewhere if url else ())]
        report, selection = scratch / "report.json", scratch / "selection.json"
        only = suite.quick if quick else None
        selection.write_text(json.dumps({"exempt": exempt, "only": only, "report": str(report)}))
        tests = place_tests(suite, source, scratch / "source", port)
        log = CACHE / f"{suite.name}{'-elsewhere' if url else ''}.log"
        run_pytest(suite, tests, python, selection, environment, log)
        return read_result(report, log)


def place_tests(suite: Suite, source: Path, directory: Path, port: int) -> Path:
    """A copy of the source, in which a port 5672 that the suite does not let us choose is the broker's."""
    shutil.copytree(source, directory)
    for name in suite.port_in_text:
        path = directory / name
        text = path.read_text()
        if "5672" not in text:
            raise RuntimeError(f"{suite.name}: {name} has no port 5672 to replace")
        path.write_text(text.replace("5672", str(port)))
    return directory


def run_pytest(
    suite: Suite, tests: Path, python: Path, selection: Path, environment: dict[str, str], log: Path
) -> None:
    """Run it to its end; its output goes to the log, the report where the selection says."""
    command = [str(python), "-m", "pytest", *PYTEST_OPTIONS, *suite.options, *suite.tests]
    paths = os.pathsep.join((str(HERE / "plugins"), str(tests)))
    environment = {**os.environ, **environment, "PYTHONPATH": paths, "FOREIGN_SELECTION": str(selection)}
    with log.open("w") as output, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            cwd=tests,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=SUITE_TIMEOUT_S,
            check=False,
        )


def read_result(report: Path, log: Path) -> Result:
    if not report.exists():
        return Result({"passed": 0}, [f"pytest did not come to its end, see {log}"])
    facts = json.loads(report.read_text())
    outcomes = facts["outcomes"]
    counts = {outcome: list(outcomes.values()).count(outcome) for outcome in ("passed", "failed", "skipped")}
    counts["exempt"] = len(facts["exempt"])
    failures = [node_id for node_id, outcome in outcomes.items() if outcome == "failed"]
    failures += [f"the exemption {pattern!r} matches no test" for pattern in facts["unused"]]
    if not counts["passed"] and not failures:
        failures.append("no test ran")
    return Result(counts, failures)


if __name__ == "__main__":
    sys.exit(main())
