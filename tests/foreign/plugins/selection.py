"""A pytest plugin for the interpreter of a foreign suite: leaves out what is exempt, and reports as JSON.

`FOREIGN_SELECTION` names a JSON file: {"exempt": [pattern], "only": [pattern] or null, "report": path}.
The report:
{"outcomes": {node id: "passed", "failed" or "skipped"}, "exempt": [node id], "unused": [pattern]}.
"""

import json
import os
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

selection = json.loads(Path(os.environ["FOREIGN_SELECTION"]).read_text())
outcomes: dict[str, str] = {}
report = {"outcomes": outcomes, "exempt": [], "unused": []}


def matches(item: pytest.Item, patterns: list[str]) -> bool:
    return any(fnmatchcase(item.nodeid, pattern.replace("[", "[[]")) for pattern in patterns)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    exempt, only = selection["exempt"], selection["only"]
    report["unused"] = [pattern for pattern in exempt if not any(matches(item, [pattern]) for item in items)]
    report["exempt"] = [item.nodeid for item in items if matches(item, exempt)]
    items[:] = [item for item in items if not matches(item, exempt) and (only is None or matches(item, only))]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        outcomes[report.nodeid] = "failed"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Called for setup, call and teardown; the worst of the three is the test's outcome."""
    if report.failed:
        outcomes[report.nodeid] = "failed"
    elif report.skipped:
        outcomes.setdefault(report.nodeid, "skipped")
    elif report.when == "teardown":
        outcomes.setdefault(report.nodeid, "passed")


def pytest_sessionfinish() -> None:
    Path(selection["report"]).write_text(json.dumps(report))
