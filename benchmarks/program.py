"""A command as a program of its own: `python -m benchmarks...`; and how such a program is ended."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

EXIT_INTERRUPTED = 130


def run_program(command: click.Command, name: str) -> NoReturn:
    """Ends the process with the command's exit code."""
    try:
        code = command.main(prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = EXIT_INTERRUPTED
    sys.exit(code)


@contextmanager
def tidy_at_sigterm() -> Iterator[None]:
    """SIGTERM is as good as Ctrl-C: no broker is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
