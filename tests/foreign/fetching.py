"""Fetches a foreign suite into the cache: its source and a venv of its own.

The cache is `build/foreign`, which git ignores, or what LEVERET_FOREIGN_CACHE names.
Only the ordinary clients of package registries are used: pip, and apt-get with lists of its own, so that the
machine's configuration stays as it is. What is there already is not fetched again.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from suites import PYTEST, Suite

CACHE = Path(os.environ.get("LEVERET_FOREIGN_CACHE") or Path(__file__).parents[2] / "build" / "foreign")
DEBIAN = "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian"


class Unavailable(Exception):
    """The suite cannot be had here and now; the message says why."""


def fetch_source(suite: Suite) -> Path:
    """The directory of the unpacked source, the same at every call."""
    directory = CACHE / "sources" / f"{suite.name}-{suite.version}"
    if not directory.exists():
        downloads = CACHE / "downloads"
        downloads.mkdir(parents=True, exist_ok=True)
        pattern = _download(suite, downloads)
        archives = sorted(downloads.glob(pattern))
        if not archives:
            raise Unavailable(f"nothing like {pattern} was downloaded")
        _unpack(archives[-1], directory)
    return directory


def make_venv(suite: Suite) -> Path:
    """A Python that has the library in the suite's version, and what its tests need."""
    directory = CACHE / "venvs" / suite.name
    wanted = "\n".join((f"{suite.name}=={suite.version}", *suite.requirements, *PYTEST))
    stamp = directory / "installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(directory, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(directory))
        _run(str(directory / "bin" / "pip"), "install", "--quiet", *wanted.splitlines())
        stamp.write_text(wanted)
    return directory / "bin" / "python"


def _download(suite: Suite, downloads: Path) -> str:
    """Download the archive; returns the pattern of its name."""
    if suite.origin == "pypi":
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", suite.name)
        _run(*pip, "--dest", str(downloads), f"{suite.name}=={suite.version}")
        return f"{suite.name.replace('-', '_')}-{suite.version}.tar.gz"
    _, release, package = suite.origin.split(":")
    if shutil.which("apt-get") is None:
        raise Unavailable("it comes from Debian's sources, and there is no apt-get")
    lists = CACHE / "apt" / release
    (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (lists / "sources.list").write_text(f"{DEBIAN} {release} main\n")
    options = (
        *("-q", "-o", f"Dir::Etc::SourceList={lists}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={lists}/lists", "-o", f"Dir::Cache={lists}"),
    )
    _run("apt-get", *options, "update")
    _run("apt-get", *options, "source", "--download-only", "--tar-only", package, directory=downloads)
    return f"{package}_{suite.version}.orig.tar.*"


def _unpack(archive: Path, directory: Path) -> None:
    """The archive's one top directory becomes `directory`, at once or not at all."""
    unpacked = directory.with_name(directory.name + ".partial")
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(parents=True)
    if shutil.which("tar") is None:
        raise Unavailable("there is no tar to unpack it")
    _run("tar", "--extract", "--no-same-owner", "--file", str(archive), "--directory", str(unpacked))
    (top,) = unpacked.iterdir()
    top.rename(directory)
    unpacked.rmdir()


def _run(*command: str, directory: Path | None = None) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise Unavailable(f"`{' '.join(command[:4])} ...` failed: {' / '.join(last)}")
