"""A command as a program of its own: `python -m benchmarks...`."""

import sys
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
