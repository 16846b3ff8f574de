"""What people install is what was tested: sdist, the wheel made from it, a clean environment, a broker that
starts.

Every packaging mistake tried while choosing the layout failed silently at exactly these steps: an sdist that
misses a package still builds a wheel, an empty one.
"""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from daemon import Daemon
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sources import PACKAGES, ROOT, installed_path, python_files

from leveret.version import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOT_SHIPPED = {"micro", "scale"}  # benchmarks that need the source tree
CONSTRAINTS = ROOT / "constraints.txt"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command outside of any environment of ours, and return what it printed."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environ["PIP_BUILD_CONSTRAINT"] = str(CONSTRAINTS)
    result = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist and the wheel that was built from the sdist."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", directory)
    return directory


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a clean environment with nothing but the wheel and its dependencies."""
    environment = tmp_path_factory.mktemp("clean") / "venv"
    run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, "--upgrade", "pip")
    run(python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, *dist.glob("*.whl"))
    return python.parent


def shipped() -> set[str]:
    """Where the wheel must have the packages' modules."""
    modules = {f"leveret/{installed_path(file)}" for file in python_files(*PACKAGES)}
    modules |= {
        f"leveret/{file.relative_to(ROOT)}"
        for file in (*python_files("benchmarks"), ROOT / "benchmarks" / "slow_sync.c")
        if file.parent.name not in NOT_SHIPPED
    }
    return modules | {f"leveret/{name}" for name in ("__init__.py", "__main__.py", "version.py", "py.typed")}


def test_the_wheel_has_every_module_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == shipped()
    assert any(name.endswith("licenses/LICENSE") for name in metadata)


def test_the_sdist_has_what_it_takes_to_test(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {str(file.relative_to(ROOT)) for file in python_files(*PACKAGES, "tests")}
    wanted |= {"pyproject.toml", "constraints.txt", "Makefile", "Dockerfile", "deploy/leveret.service"}
    assert wanted - names == set()


def test_the_command_says_its_version(installed: Path) -> None:
    assert run(installed / "leveret", "--version") == f"leveret {__version__}\n"
    assert run(installed / "python", "-m", "leveret", "--version") == f"leveret {__version__}\n"


def test_the_benchmark_comes_with_it(installed: Path) -> None:
    times = ("--runs=1", "--seconds=0.2", "--warm-up=0.1")
    assert "leveret amqp" in run(installed / "leveret", "bench", "one-by-one", *times)


@pytest.fixture
def installed_daemon(installed: Path, tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data", command=[str(installed / "leveret")]) as running:
        yield running


def test_the_broker_starts_and_stops(installed_daemon: Daemon) -> None:
    assert installed_daemon.port > 0
    assert installed_daemon.terminate() == 0


def required() -> Iterator[str]:
    """Everything that pyproject.toml asks for, and what that asks for in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found: set[str] = set()
    open_requirements = [
        *project["project"]["dependencies"],
        *project["dependency-groups"]["dev"],
        *project["build-system"]["requires"],
        "pip",
    ]
    while open_requirements:
        requirement = Requirement(open_requirements.pop())
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(name)
            open_requirements += metadata.requires(name) or []
            yield name


def test_constraints_pin_every_dependency() -> None:
    """What pip would have to choose by itself is a build that changes over time."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert set(required()) - pinned == set()
