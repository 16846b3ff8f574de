"""The command line: what it hands to the broker, and what a person or a supervisor learns when it fails."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from leveret.broker import cli
from leveret.broker.daemon.config import Config
from leveret.broker.queue_report import Row, Unavailable, WrongAddress
from leveret.storage.check import Report
from leveret.storage.directory import DirectoryInUse, DirectoryUnusable
from leveret.storage.engine import Corrupt
from leveret.version import __version__

Capture = pytest.CaptureFixture[str]


class FakeServe:
    """Stands in for `process.serve`: remembers the configuration, then ends as it was told to."""

    def __init__(self) -> None:
        self.config: Config | None = None
        self.exit_code = 0
        self.error: Exception | None = None

    def __call__(self, config: Config) -> int:
        self.config = config
        if self.error is not None:
            raise self.error
        return self.exit_code


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> FakeServe:
    fake = FakeServe()
    monkeypatch.setattr(cli.process, "serve", fake)
    monkeypatch.setattr(cli.logs, "configure", lambda *_: None)
    return fake


@pytest.fixture
def fails(capsys: Capture) -> Callable[..., str]:
    """Run a command that must fail with an exit code and one line on stderr; the line, without the program's
    name."""

    def run(exit_code: int, *arguments: str) -> str:
        assert cli.run(arguments) == exit_code
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("leveret: ")
        assert err.count("\n") == 1
        return err.removeprefix("leveret: ").rstrip("\n")

    return run


def test_the_version(capsys: Capture) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"leveret {__version__}\n"


def test_serve_hands_over_the_options(serve: FakeServe, tmp_path: Path) -> None:
    assert cli.run(["serve", "--data-dir", str(tmp_path), "--port", "0", "--loopback-users", ""]) == 0
    assert serve.config == Config(data_dir=tmp_path, port=0, loopback_users=())


def test_serve_reads_the_environment_and_a_file(
    serve: FakeServe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "leveret.toml"
    file.write_text("heartbeat_s = 5\n")
    monkeypatch.setenv("LEVERET_CHANNEL_MAX", "7")
    assert cli.run(["serve", "--config", str(file)]) == 0
    assert serve.config == Config(heartbeat_s=5, channel_max=7)


def test_the_file_may_be_named_by_the_environment(
    serve: FakeServe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "leveret.toml"
    file.write_text("heartbeat_s = 5\n")
    monkeypatch.setenv("LEVERET_CONFIG", str(file))
    assert cli.run(["serve"]) == 0
    assert serve.config == Config(heartbeat_s=5)


def test_the_brokers_exit_code_is_the_commands(serve: FakeServe) -> None:
    serve.exit_code = 3
    assert cli.run(["serve"]) == 3


def test_help_names_every_option_but_the_hidden_ones(capsys: Capture) -> None:
    assert cli.run(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--heartbeat-s" in text
    assert "LEVERET_HEARTBEAT_S" in text
    assert "--sync-delay-ms" not in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "Missing command"),
        (["brew"], "No such command 'brew'"),
        (["serve", "--prot", "1"], "No such option"),
        (["serve", "--port", "many"], "port must be a whole number or none, not 'many' (from --port)"),
        (["serve", "--config", "/absent.toml"], "/absent.toml: No such file"),
    ],
)
def test_a_wrong_command_line_is_2_and_one_line(
    serve: FakeServe, fails: Callable[..., str], arguments: list[str], part: str
) -> None:
    assert part in fails(2, *arguments)
    assert serve.config is None


def test_a_damaged_store_is_2(serve: FakeServe, fails: Callable[..., str]) -> None:
    serve.error = Corrupt("blob 7: the CRC is wrong")
    assert fails(2, "serve") == "blob 7: the CRC is wrong"


def test_a_directory_that_cannot_serve_is_2(serve: FakeServe, fails: Callable[..., str]) -> None:
    serve.error = DirectoryUnusable("/x is not a directory")
    assert fails(2, "serve") == "/x is not a directory"


def test_a_directory_in_use_is_1(serve: FakeServe, fails: Callable[..., str]) -> None:
    serve.error = DirectoryInUse("/x is in use by the process with pid 1")
    assert fails(1, "serve") == "/x is in use by the process with pid 1"


def test_a_taken_port_is_1(serve: FakeServe, fails: Callable[..., str]) -> None:
    serve.error = OSError(errno.EADDRINUSE, "error while attempting to bind on address ('127.0.0.1', 5672)")
    assert "('127.0.0.1', 5672)" in fails(1, "serve")


def test_a_message_of_several_lines_becomes_one(serve: FakeServe, fails: Callable[..., str]) -> None:
    serve.error = Corrupt("first\n  second")
    assert fails(2, "serve") == "first second"


def test_check_says_that_a_directory_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    report = Report(blobs=2, records=3, payload_bytes=40)
    monkeypatch.setattr(cli, "check_directory", {tmp_path: report}.get)
    assert cli.run(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "sound: 2 blobs with 3 records, 40 bytes\n"


def test_check_prints_a_line_per_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    report = Report(findings=["blob 1 is gone", "blob 2 is torn"], findings_left_out=5)
    monkeypatch.setattr(cli, "check_directory", {tmp_path: report}.get)
    assert cli.run(["check", str(tmp_path)]) == 2
    assert capsys.readouterr().out.splitlines() == ["blob 1 is gone", "blob 2 is torn", "and 5 more"]


def test_check_of_no_directory_is_a_finding(tmp_path: Path, capsys: Capture) -> None:
    assert cli.run(["check", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().out


def test_compact_says_what_it_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(cli, "compact_directory", {tmp_path: (4096, 1024)}.get)
    assert cli.run(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "compacted: 4096 bytes before, 1024 after\n"


def test_compact_of_no_directory_is_an_error(tmp_path: Path, capsys: Capture) -> None:
    assert cli.run(["compact", str(tmp_path / "absent")]) != 0
    assert "does not exist" in capsys.readouterr().err


class FakeAsk:
    """Stands in for `queue_report.ask`."""

    def __init__(self) -> None:
        self.url = ""
        self.rows: list[Row] = [{"vhost": "/", "name": "jobs", "ready": 1, "unacked": 2, "consumers": 3}]
        self.error: Exception | None = None

    def __call__(self, url: str) -> list[Row]:
        self.url = url
        if self.error is not None:
            raise self.error
        return self.rows


class TestQueues:
    @pytest.fixture
    def ask(self, monkeypatch: pytest.MonkeyPatch) -> FakeAsk:
        fake = FakeAsk()
        monkeypatch.setattr(cli.queue_report, "ask", fake)
        return fake

    def test_they_are_a_table_or_json(self, ask: FakeAsk, capsys: Capture) -> None:
        assert cli.run(["queues"]) == 0
        names, numbers = capsys.readouterr().out.splitlines()
        assert names.split() == ["vhost", "name", "ready", "unacked", "consumers"]
        assert numbers.split() == ["/", "jobs", "1", "2", "3"]
        assert cli.run(["queues", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == ask.rows

    def test_the_broker_is_where_the_flag_the_environment_the_file_or_nobody_says(
        self, ask: FakeAsk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "leveret.toml"
        file.write_text("http_port = 7")
        cli.run(["queues"])
        assert ask.url == "http://127.0.0.1:15672"
        cli.run(["queues", "--config", str(file)])
        assert ask.url == "http://127.0.0.1:7"
        monkeypatch.setenv("LEVERET_HTTP_PORT", "8")
        cli.run(["queues", "--config", str(file)])
        assert ask.url == "http://127.0.0.1:8"
        cli.run(["queues", "--url", "http://elsewhere:9"])
        assert ask.url == "http://elsewhere:9"

    def test_a_broker_that_is_not_there_is_1_and_what_is_none_is_2(
        self, ask: FakeAsk, fails: Callable[..., str]
    ) -> None:
        ask.error = Unavailable("no broker answers")
        assert fails(1, "queues") == "no broker answers"
        ask.error = WrongAddress("that is not Leveret")
        assert fails(2, "queues") == "that is not Leveret"
