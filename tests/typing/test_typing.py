"""What users write is understood by mypy and by pyright, both at their strictest; and so are mistakes.

`accepted/` and the examples must pass. In `rejected/`, every line marked `# rejected` must be refused, and no
other. Both checkers see the installed package, as for a user: its `py.typed`, and its own annotations.

pyright is the one from PyPI with the extra `nodejs`: checker and Node.js come in wheels, so that nothing is
fetched when it runs.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sources import ROOT

pytestmark = pytest.mark.timeout(300)  # with an empty cache

HERE = Path(__file__).parent
EXAMPLES = ROOT / "examples"
CACHE = ROOT / ".mypy_cache" / "typing"

Place = tuple[str, int]  # file and line

MYPY_ERROR = re.compile(r"(?P<file>[^:]+):(?P<line>\d+): error: ")


def run(*command: str | Path) -> str:
    """What a checker prints; that it finds something is no failure."""
    environ = {**os.environ, "PYRIGHT_PYTHON_GLOBAL_NODE": "0"}  # the one from the wheel, on every machine
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=HERE,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def mypy_errors() -> dict[Place, str]:
    options = (
        "--strict",
        "--config-file=",
        "--cache-dir",
        CACHE,
        "--no-error-summary",
        "--hide-error-context",
    )
    examples = sorted(EXAMPLES.rglob("*.py"))
    output = run("mypy", *options, HERE / "accepted", HERE / "rejected", *examples)
    found = ((MYPY_ERROR.match(line), line) for line in output.splitlines())
    return {(Path(match["file"]).name, int(match["line"])): line for match, line in found if match}


def pyright_errors() -> dict[Place, str]:
    output = run("pyright", "--project", HERE, "--pythonpath", sys.executable, "--outputjson")
    report = json.loads(output)
    assert report["summary"]["filesAnalyzed"] == len(samples())
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1): each["message"]
        for each in report["generalDiagnostics"]
    }


def samples() -> list[Path]:
    return [*HERE.glob("accepted/*.py"), *HERE.glob("rejected/*.py"), *EXAMPLES.rglob("*.py")]


def marked() -> set[Place]:
    return {
        (file.name, number)
        for file in HERE.glob("rejected/*.py")
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if line.endswith("# rejected")
    }


@pytest.mark.parametrize("errors_of", [mypy_errors, pyright_errors])
def test_it_refuses_mistakes_and_nothing_else(errors_of: object) -> None:
    assert callable(errors_of)
    errors: dict[Place, str] = errors_of()
    wrongly = {place: text for place, text in errors.items() if place not in marked()}
    assert wrongly == {}
    assert marked() - set(errors) == set()
