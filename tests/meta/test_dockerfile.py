"""The Dockerfile, without a Docker engine: its build steps are run in a scratch directory, its entry point as
it says.

What this cannot show: that the base image exists, and the steps that make the user (they need root in an
image).
"""

import fnmatch
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from daemon import Daemon
from sources import ROOT

from leveret.broker.daemon.config import Config

USUAL_TLS_PORT = 5671  # no default: TLS needs a certificate
PREFIX = "/opt/leveret"  # where the image has the broker's environment
CREATES_USER = ("useradd ", "install ")


@dataclass(frozen=True)
class Instruction:
    word: str
    text: str
    stage: int

    @property
    def exec_form(self) -> list[str]:
        """The JSON list; a shell form would put a shell between Docker's signals and the broker."""
        words: list[str] = json.loads(self.text)
        return words


def parse() -> list[Instruction]:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    instructions: list[Instruction] = []
    stage = -1
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        instructions.append(Instruction(word, rest.strip(), stage))
    return instructions


DOCKERFILE = parse()
LAST_STAGE = DOCKERFILE[-1].stage


def all_of(word: str, stage: int = LAST_STAGE) -> list[str]:
    return [found.text for found in DOCKERFILE if found.word == word and found.stage == stage]


def environment() -> dict[str, str]:
    """What the image's ENV sets."""
    return dict(pair.split("=", 1) for text in all_of("ENV") for pair in shlex.split(text))


def health_check() -> list[str]:
    (text,) = all_of("HEALTHCHECK")
    return Instruction("CMD", text.partition(" CMD ")[2], LAST_STAGE).exec_form


def context_files() -> Iterator[Path]:
    """What .dockerignore lets through (its last matching line decides), of the files that git knows."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        ignored = False
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            heads = [name, *map(str, Path(name).parents)]
            if any(fnmatch.fnmatch(head, pattern) for head in heads):
                ignored = not rule.startswith("!")
        if not ignored:
            yield Path(name)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build stage's /opt/leveret: every RUN of that stage, in a copy of the build context."""
    scratch = tmp_path_factory.mktemp("image")
    context = scratch / "src"
    for name in context_files():
        (context / name.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, context / name, follow_symlinks=False)
    prefix = scratch / "leveret"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for step in all_of("RUN", stage=0):
        command = step.replace(PREFIX, str(prefix))
        result = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=context,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{step}\n{result.stdout}{result.stderr}"
    return prefix


def test_both_stages_have_the_same_python() -> None:
    """The environment is copied from one to the other, with links to the interpreter."""
    assert len({text.split()[0] for text in all_of("FROM", 0) + all_of("FROM", 1)}) == 1


def test_signals_reach_the_broker() -> None:
    (entry_point,) = (found for found in DOCKERFILE if found.word == "ENTRYPOINT")
    assert entry_point.exec_form == ["leveret"]
    assert all_of("STOPSIGNAL") == ["SIGTERM"]


def test_it_does_not_run_as_root() -> None:
    (user,) = all_of("USER")
    assert int(user) > 0  # a number: Kubernetes cannot tell whether a name is root
    made = next(text for text in all_of("RUN") if text.startswith("useradd "))
    assert f"--uid {user} " in made


def test_data_are_in_the_volume() -> None:
    assert all_of("VOLUME") == [environment()["LEVERET_DATA_DIR"]]


def test_the_ports_are_the_brokers() -> None:
    assert all_of("EXPOSE") == [f"{USUAL_TLS_PORT} {Config().port} {Config().http_port}"]


def test_every_step_but_the_users_is_run_by_this_test() -> None:
    assert [text for text in all_of("RUN") if not text.startswith(CREATES_USER)] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_built_broker_starts_is_healthy_and_stops(image: Path, tmp_path: Path) -> None:
    variables = {name: value for name, value in environment().items() if name.startswith("LEVERET_")}
    variables["PATH"] = environment()["PATH"].replace(PREFIX, str(image)).replace("$PATH", os.environ["PATH"])
    entry_point, command = (json.loads(all_of(word)[0]) for word in ("ENTRYPOINT", "CMD"))
    assert command == ["serve"]
    program = shutil.which(entry_point[0], path=variables["PATH"])
    assert program == str(image / "bin" / "leveret")
    with Daemon(tmp_path / "data", command=[program], env=variables) as daemon:
        check = {**os.environ, **variables, "LEVERET_HTTP_PORT": str(daemon.http_port)}
        subprocess.run(health_check(), env=check, check=True)
        daemon.signal(all_of("STOPSIGNAL")[0])
        assert daemon.wait() == 0
        unhealthy = subprocess.run(health_check(), env=check, capture_output=True, check=False)
        assert unhealthy.returncode != 0
