"""Patterns are taken one by one: none drags in what only another one needs."""

import subprocess
import sys

import pytest
from sources import installed_path, python_files

STAND_ON_SQLALCHEMY = {
    "leveret.patterns.database",
    "leveret.patterns.inbox_sql",
    "leveret.patterns.outbox",
    "leveret.patterns.outbox_relay",
}
MODULES = [
    ".".join(("leveret", *installed_path(file).with_suffix("").parts)).removesuffix(".__init__")
    for file in python_files("src/leveret/patterns")
]

IMPORT_WITHOUT_SQLALCHEMY = """
import importlib, sys
sys.modules["sqlalchemy"] = None  # an import of it raises ImportError
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_patterns_import_without_sqlalchemy() -> None:
    names = [name for name in MODULES if name not in STAND_ON_SQLALCHEMY]
    command = [sys.executable, "-c", IMPORT_WITHOUT_SQLALCHEMY, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["sqlalchemy", "greenlet"])
@pytest.mark.parametrize("module", sorted(STAND_ON_SQLALCHEMY))
def test_without_sqlalchemy_its_patterns_say_what_to_install(module: str, missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    said = "ImportError: this needs SQLAlchemy with asyncio: pip install 'leveret[sqlalchemy]'"
    assert done.stderr.splitlines()[-1] == said


@pytest.mark.parametrize("package", ["leveret", "leveret.patterns"])
def test_a_package_imports_no_pattern_by_itself(package: str) -> None:
    code = f"import {package}, sys; print([name for name in sys.modules if 'leveret.patterns.' in name])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
