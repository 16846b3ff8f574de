"""The broker as a process: it starts, says that it is ready, stops when told to, and fails with a code and a
line."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pika
import pytest
from amqp_peer import LOGIN, publish, tune_ok, vhost_open
from daemon import START_TIMEOUT_S, Daemon
from pika.exceptions import AMQPError, ProbableAuthenticationError

from leveret.protocol.amqp.frames import HEARTBEAT_FRAME, build_frame, method_frame
from leveret.protocol.amqp.methods import ChannelOpen

Serve = Callable[..., tuple[int, str]]


@pytest.fixture
def serve_fails(tmp_path: Path) -> Serve:
    """Run `leveret serve`, which must fail; its exit code, and the line on stderr that says why."""

    def run(*options: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "leveret", "serve", "--port", "0", "--http-port", "0"]
        command += ["--data-dir", str(tmp_path / "data"), *options]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_TIMEOUT_S)
        assert ended.stdout == ""
        lines = ended.stderr.splitlines()
        assert lines, "it said nothing"
        assert lines[-1].startswith("leveret: "), ended.stderr
        return ended.returncode, lines[-1]

    return run


def get(daemon: Daemon, path: str) -> tuple[int, str]:
    try:
        with urlopen(daemon.http_url + path, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_it_listens_where_the_ready_line_says(daemon: Daemon) -> None:
    for port in (daemon.port, daemon.http_port):
        socket.create_connection(("127.0.0.1", port), timeout=10).close()


@pytest.mark.parametrize("signal_name", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_it_cleanly(daemon: Daemon, signal_name: str) -> None:
    daemon.signal(signal_name)
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.stderr


def test_it_comes_back_on_the_same_ports(daemon: Daemon) -> None:
    ports = daemon.port, daemon.http_port
    daemon.restart()
    daemon.restart(kill=True)
    assert (daemon.port, daemon.http_port) == ports


def test_it_is_healthy_and_ready(daemon: Daemon) -> None:
    for path in ("/healthz", "/readyz"):
        assert get(daemon, path) == (200, json.dumps({"status": "ok"}))


def test_its_metrics_are_about_it(daemon: Daemon) -> None:
    status, text = get(daemon, "/metrics")
    assert status == 200
    for line in ("leveret_ready 1.0", "leveret_connections 0.0", "leveret_messages_published_total 0.0"):
        assert line in text.splitlines()
    assert "process_resident_memory_bytes" in text


def test_its_metrics_follow_traffic(daemon: Daemon) -> None:
    with pika.BlockingConnection(pika.URLParameters(daemon.amqp_url)) as connection:
        channel = connection.channel()
        channel.queue_declare("jobs", durable=True)
        channel.confirm_delivery()
        channel.basic_publish("", "jobs", b"body", pika.BasicProperties(delivery_mode=2))
        lines = get(daemon, "/metrics")[1].splitlines()
        per_queue = get(daemon, "/metrics/per-object")[1].splitlines()
    for name in ("connections", "channels", "queues", "messages_ready", "messages_published_total"):
        assert f"leveret_{name} 1.0" in lines
    assert "leveret_messages_ready_bytes 4.0" in lines
    assert "leveret_committed_messages_total 1.0" in lines
    assert 'leveret_queue_messages_ready{vhost="/",queue="jobs"} 1' in per_queue


def test_a_login_is_refused_and_logged_without_the_password(daemon: Daemon) -> None:
    url = daemon.amqp_url.replace("guest:guest", "guest:hunter2")
    with pytest.raises(ProbableAuthenticationError, match="Login was refused"):
        pika.BlockingConnection(pika.URLParameters(url))
    assert "login of 'guest' refused" in daemon.stderr
    assert "hunter2" not in daemon.stderr


def test_it_is_not_ready_while_it_stops(tmp_path: Path) -> None:
    """A client that never answers the goodbye keeps the broker in its shutdown grace."""
    with Daemon(tmp_path / "data", "--shutdown-grace-s", "2") as daemon:
        connection = pika.BlockingConnection(pika.URLParameters(daemon.amqp_url))
        daemon.signal("SIGTERM")
        while (answer := get(daemon, "/readyz"))[0] == 200:
            pass
        assert (answer[0], json.loads(answer[1])["error"]) == (503, "not_ready")
        assert daemon.wait() == 0
        with pytest.raises(AMQPError):
            connection.channel()


def test_what_it_never_heard_of_is_404(daemon: Daemon) -> None:
    status, body = get(daemon, "/favicon.ico")
    assert (status, json.loads(body)["error"]) == (404, "not_found")


def test_a_data_directory_in_use_is_1(daemon: Daemon, serve_fails: Serve) -> None:
    exit_code, line = serve_fails("--data-dir", str(daemon.data_dir))
    assert exit_code == 1
    assert f"in use by the process with pid {daemon.pid}" in line


@pytest.mark.parametrize("option", ["--port", "--http-port"])
def test_a_port_in_use_is_1(daemon: Daemon, serve_fails: Serve, tmp_path: Path, option: str) -> None:
    exit_code, line = serve_fails("--data-dir", str(tmp_path / "other"), option, str(daemon.port))
    assert exit_code == 1
    assert f"port {daemon.port} of 127.0.0.1 is in use; choose another one with {option}" in line
    assert "in use" in line


def test_a_wrong_option_is_2(serve_fails: Serve) -> None:
    assert serve_fails("--heartbeat-s", "often")[0] == 2


def test_somebody_elses_directory_is_2_and_left_alone(serve_fails: Serve, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    exit_code, line = serve_fails("--data-dir", str(tmp_path))
    assert exit_code == 2
    assert "thesis.tex" in line
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_store_is_2(daemon: Daemon, serve_fails: Serve) -> None:
    assert daemon.terminate() == 0
    for store in (daemon.data_dir / "log").iterdir():
        store.write_bytes(b"\0" * store.stat().st_size)
    assert serve_fails()[0] == 2


def test_check_finds_a_stopped_brokers_store_sound(daemon: Daemon) -> None:
    check = [sys.executable, "-m", "leveret", "check", str(daemon.data_dir)]
    in_use = subprocess.run(check, capture_output=True, text=True, check=False)
    assert in_use.returncode == 2
    assert "in use" in in_use.stdout
    daemon.terminate()
    stopped = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (stopped.returncode, stopped.stdout.split(":")[0]) == (0, "sound")


def test_it_outlives_a_lack_of_file_descriptors(tmp_path: Path) -> None:
    """Nothing that looks at the machine now and then can open a file; heartbeats go on all the same."""
    heartbeat = build_frame(HEARTBEAT_FRAME, 0, b"")
    command = ("sh", "-c", 'ulimit -n 40; exec "$@"', "sh", sys.executable, "-m", "leveret")
    with Daemon(tmp_path / "data", command=command) as daemon:
        peer = socket.create_connection(("127.0.0.1", daemon.port), timeout=10)
        peer.sendall(LOGIN + tune_ok(heartbeat=1) + vhost_open())
        sockets = [socket.create_connection(("127.0.0.1", daemon.port), timeout=10) for _ in range(40)]
        received = b""
        trouble = "looking at what the machine has left failed"
        while received.count(heartbeat) < 3 or trouble not in daemon.stderr:
            data = peer.recv(4096)
            assert data, "it closed the connection"
            received += data
            peer.sendall(heartbeat)
        for one in (*sockets, peer):
            one.close()
        assert daemon.terminate() == 0


def test_a_peer_that_never_reads_its_answers_may_not_ask_for_ever(daemon: Daemon) -> None:
    question = publish(1, bytes(100_000), routing_key="nowhere", mandatory=True)
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=10) as peer:
        peer.sendall(LOGIN + tune_ok(heartbeat=0) + vhost_open() + method_frame(1, ChannelOpen()))
        peer.settimeout(1)
        asked = 0
        with contextlib.suppress(TimeoutError):
            while asked < 100_000_000:
                asked += peer.send(question[asked % len(question) :])
        assert asked < 100_000_000
        questions = asked // len(question)
        peer.settimeout(10)
        answers, rest = 0, b""
        while answers < questions:  # all of them are there, and it goes on reading
            data = rest + peer.recv(1 << 20)
            answers += data.count(b"NO_ROUTE")
            rest = data[-7:]
        peer.sendall(question[asked % len(question) :])
        while b"NO_ROUTE" not in rest:
            rest = rest[-7:] + peer.recv(1 << 20)


def test_it_listens_on_every_address_it_is_given(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", "--host", "127.0.0.1,::1") as daemon:
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, daemon.port), timeout=10) as peer:
                peer.sendall(b"AMQP\x00\x00\x09\x01")
                assert peer.recv(1) == b"\x01"
