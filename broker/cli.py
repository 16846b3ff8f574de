"""The `leveret` command: reads options, calls the broker or a tool, makes of an error one line and a code.

Exit codes: 0 done; 1 failed, and may work when tried again (a port in use); 2 will fail again until a person
acts (a wrong option, a damaged store), so deploy/leveret.service does not restart the broker after it; 3 the
log could not be written while the broker ran. Only this module ends the process.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from leveret.storage.check import check_directory
from leveret.storage.compact import compact_directory
from leveret.storage.directory import DirectoryUnusable
from leveret.storage.engine import Corrupt, EngineError
from leveret.version import __version__

from . import queue_report
from .daemon import logs, process
from .daemon.config import OPTIONS, ConfigError, load
from .durability.check import inspect

EXIT_FAILED = 1
EXIT_NEEDS_A_PERSON = 2

_config_file = click.option(
    "--config", "file", type=click.Path(path_type=Path), envvar="LEVERET_CONFIG", help="A TOML file."
)


def _with_config_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command a flag for every option that `Config` declares."""
    for option in reversed(tuple(OPTIONS.values())):
        hidden = not option.about.shown
        flag = click.option(*option.flags, option.name, metavar="VALUE", help=option.help, hidden=hidden)
        command = flag(command)
    return command


@click.group(no_args_is_help=False)
@click.version_option(__version__, message="leveret %(version)s")
def commands() -> int:
    """Leveret, a message broker: a confirm means that the message is on the disk."""
    return 0


@commands.command()
@_config_file
@_with_config_options
def serve(file: Path | None, **flags: str | None) -> int:
    """Run a broker until SIGTERM or SIGINT.

    Options come from the command line, else the environment, else the TOML file. When the broker accepts
    connections, it prints one line: ready port=N http_port=N tls_port=N data_dir=PATH
    (without a port that is off). SIGHUP makes it read the files of TLS again.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    config = load(given, os.environ, file)
    logs.configure(config.log_level, config.log_format)
    exit_code: int = process.serve(config)
    return exit_code


@commands.command()
@click.option("--url", help="The broker's HTTP port, such as http://127.0.0.1:15672.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of a table.")
@_config_file
def queues(url: str | None, as_json: bool, file: Path | None) -> int:
    """Print the queues of a running broker: their ready and unacked messages and their consumers.

    Without --url the broker is sought where LEVERET_HTTP_HOST and LEVERET_HTTP_PORT say, else the TOML file,
    else at http://127.0.0.1:15672.
    """
    rows = queue_report.ask(url or queue_report.url_of(load({}, os.environ, file)))
    lines = [json.dumps(rows, indent=2)] if as_json else queue_report.table(rows)
    for line in lines:
        click.echo(line)
    return 0


@commands.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
def check(data_dir: Path) -> int:
    """Check a data directory that no broker is using, and print what is wrong, a line each.

    Changes nothing. Exits with 0 when everything is sound, else with 2.
    """
    report = check_directory(data_dir, inspect)
    for finding in report.findings:
        click.echo(finding)
    if report.findings_left_out:
        click.echo(f"and {report.findings_left_out} more")
    if not report.is_sound:
        return EXIT_NEEDS_A_PERSON
    click.echo(f"sound: {report.blobs} blobs with {report.records} records, {report.payload_bytes} bytes")
    return 0


@commands.command()
@click.argument("data_dir", type=click.Path(path_type=Path))
def compact(data_dir: Path) -> int:
    """Give the room of messages that are gone back to the file system. No broker may be using DATA_DIR.

    Needs as much free room as the messages that are left take.
    """
    before, after = compact_directory(data_dir)
    click.echo(f"compacted: {before} bytes before, {after} after")
    return 0


@commands.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> int:
    """Measure how fast this broker, or another one, is on this machine."""
    from leveret.benchmarks.command import bench as command  # noqa: PLC0415 -- no broker loads its own load

    exit_code: int = command.main(arguments, prog_name="leveret bench", standalone_mode=False)
    return exit_code


def main() -> None:
    """The console script."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command (by default that of the process) and return its exit code; errors are said on stderr."""
    try:
        exit_code: int = commands.main(arguments, prog_name="leveret", standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = "leveret" if context is None else context.command_path
        return _fail(f"{error.format_message().rstrip('.')} (see {command} --help)", error.exit_code)
    except click.Abort:
        return _fail("interrupted", EXIT_FAILED)
    except (ConfigError, Corrupt, DirectoryUnusable, queue_report.WrongAddress) as error:
        return _fail(str(error), EXIT_NEEDS_A_PERSON)
    except (EngineError, OSError, queue_report.Unavailable) as error:
        return _fail(str(error), EXIT_FAILED)
    return exit_code


def _fail(text: str, exit_code: int) -> int:
    print("leveret:", " ".join(text.split()), file=sys.stderr)
    return exit_code
