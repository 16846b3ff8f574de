"""The project's own Python files, for tests that read the code."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "broker",
    "client",
    "protocol",
    "storage",
    "src/leveret/patterns",
    "src/leveret/sync",
    "src/leveret/testing",
)
FOLDERS = ("broker", "client", "protocol", "storage", "src", "tests", "benchmarks", "examples")


@cache
def python_files(*folders: str) -> tuple[Path, ...]:
    """Every Python file below these folders of the project, sorted; links are not followed."""
    return tuple(sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py")))


def installed_path(file: Path) -> Path:
    """Where an installed Leveret has this module of one of the packages, below `leveret/`."""
    return Path(str(file.relative_to(ROOT)).removeprefix("src/leveret/"))


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def place(file: Path, line: int = 1) -> str:
    """How a finding names its place."""
    return f"{file.relative_to(ROOT)}:{line}"


def calls(module: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every call in a module: `time.time`, `print`."""
    for node in ast.walk(module):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def imports(module: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, top-level module) of every absolute import."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.partition(".")[0]
