"""What a running broker makes of its options, and what it writes where."""

from pathlib import Path

import pika
from daemon import Daemon


def proposed_heartbeat_s(daemon: Daemon) -> int:
    """What connection.tune says."""
    proposed = []

    def take(_connection: object, heartbeat_s: int) -> int:
        proposed.append(heartbeat_s)
        return heartbeat_s

    parameters = pika.URLParameters(daemon.amqp_url)
    parameters.heartbeat = take
    pika.BlockingConnection(parameters).close()
    return proposed[0]


def test_a_flag_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = tmp_path / "leveret.toml"
    file.write_text("heartbeat_s = 11\n")
    from_file = ("--config", str(file))
    environment = {"LEVERET_HEARTBEAT_S": "22"}

    with Daemon(tmp_path / "none") as daemon:
        assert proposed_heartbeat_s(daemon) == 60
    with Daemon(tmp_path / "file", *from_file) as daemon:
        assert proposed_heartbeat_s(daemon) == 11
    with Daemon(tmp_path / "environment", *from_file, env=environment) as daemon:
        assert proposed_heartbeat_s(daemon) == 22
    with Daemon(tmp_path / "flag", *from_file, "--heartbeat-s", "33", env=environment) as daemon:
        assert proposed_heartbeat_s(daemon) == 33


def test_stdout_has_the_ready_line_and_stderr_the_log(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", "--log-level", "debug") as daemon:
        pika.BlockingConnection(pika.URLParameters(daemon.amqp_url)).close()
        assert daemon.process is not None
        stdout = daemon.process.stdout
        assert stdout is not None
        daemon.signal("SIGTERM")
        after_the_ready_line = stdout.read()  # until it ends
        assert daemon.wait() == 0
    assert after_the_ready_line == ""
    assert "opened vhost '/'" in daemon.stderr
    assert "ready port=" not in daemon.stderr
