"""Other revisions of Leveret, as git has them, to compare with."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class NoRevision(Exception):
    """Git does not know it, or there is no git."""


def check_out(revision: str, directory: Path) -> Path:
    """The source tree of a revision, in a new directory below this one. The repository is not touched."""
    tree = directory / f"revision-{_git('rev-parse', '--short', f'{revision}^{{commit}}').decode().strip()}"
    if not tree.exists():
        archive = _git("archive", revision, "src", "broker", "client", "protocol", "storage")
        unpacked = tree.with_suffix(".new")
        unpacked.mkdir()
        command = ["tar", "--extract", "--no-same-owner", "--directory", str(unpacked)]
        subprocess.run(command, input=archive, check=True)
        unpacked.rename(tree)
    return tree


def _git(*arguments: str) -> bytes:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True)
    except FileNotFoundError:
        raise NoRevision("git is not installed") from None
    except subprocess.CalledProcessError as error:
        raise NoRevision(error.stderr.decode().strip()) from None
    return done.stdout
