"""House rules that no linter knows. Each test lists every place that breaks its rule."""

import ast
import re

from sources import FOLDERS, PACKAGES, ROOT, calls, imports, place, python_files, tree

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600

MAY_READ_CLOCKS = {"broker/clock.py", "src/leveret/sync/timeout.py"}
MAY_PRINT = {"broker/cli.py", "broker/daemon/process.py"}  # one line of errors; the ready line

# perf_counter measures, and what was measured decides nothing.
CLOCKS = re.compile(r"time\.(time|time_ns|monotonic|monotonic_ns)|datetime\.(now|utcnow|today)")
MARKS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
SILENCED = re.compile(r"#\s*(type: ignore|noqa|pragma: no cover)(?P<rest>.*)")
REASON = re.compile(r"(\[[\w, -]+\]|: [A-Z]+\d+)\s+(#|--) \w")
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}


def test_functions_are_short() -> None:
    found = [
        f"{place(file, node.lineno)} {node.name}: {length} lines"
        for file in python_files(*FOLDERS)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert found == []


def test_files_are_short() -> None:
    found = [
        f"{place(file)} {length} lines"
        for file in python_files(*FOLDERS)
        if (length := len(file.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    ]
    assert found == []


def test_every_module_says_what_it_is() -> None:
    files = python_files(*PACKAGES, "src", "benchmarks", "examples", "tests/support")
    modules = {file: tree(file) for file in files}
    found = [place(file) for file, module in modules.items() if module.body and not ast.get_docstring(module)]
    assert found == []


def test_nothing_is_left_for_later() -> None:
    found = [
        place(file, number)
        for file in python_files(*FOLDERS)
        if file.name != "test_tidy.py"
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if MARKS.search(line)
    ]
    assert found == []


def test_a_silenced_check_says_which_and_why() -> None:
    found = [
        place(file, number)
        for file in python_files(*PACKAGES)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if (silenced := SILENCED.search(line)) and not REASON.match(silenced["rest"])
    ]
    assert found == []


def test_time_comes_from_the_clock_only() -> None:
    found = [
        f"{place(file, line)} {name}"
        for file in python_files(*PACKAGES)
        if str(file.relative_to(ROOT)) not in MAY_READ_CLOCKS
        for line, name in calls(tree(file))
        if CLOCKS.fullmatch(name)
    ]
    assert found == []


def test_chance_is_secret_or_seeded() -> None:
    """`secrets` for names, `random.Random(seed)` for simulation; never the module's own shared generator."""
    found = [
        f"{place(file, line)} {name}"
        for file in python_files(*PACKAGES)
        for line, name in calls(tree(file))
        if name.startswith("random.") and name != "random.Random"
    ]
    assert found == []


def test_only_the_command_line_prints() -> None:
    found = [
        place(file, line)
        for file in python_files(*PACKAGES)
        if str(file.relative_to(ROOT)) not in MAY_PRINT
        for line, name in calls(tree(file))
        if name == "print"
    ]
    assert found == []


def test_files_are_named_after_what_is_in_them() -> None:
    assert [place(file) for file in python_files(*PACKAGES) if file.stem in VAGUE_NAMES] == []


def test_packages_import_each_other_by_their_full_names() -> None:
    """`import broker` would be a second copy of `leveret.broker`, with other classes."""
    found = [
        f"{place(file, line)} {module}"
        for file in python_files(*FOLDERS)
        for line, module in imports(tree(file))
        if module in {*PACKAGES, "benchmarks"}
    ]
    assert found == []
