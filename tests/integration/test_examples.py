"""The examples do what they say, against a real broker."""

import subprocess
import sys
from pathlib import Path

import pytest
from daemon import Daemon

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_S = 60

LOG = """\
2025-06-24 14:36:25 startup archives unpack
2025-06-24 14:36:25 install python3.11:amd64 <none> 3.11.2-6
2025-06-24 14:36:25 status half-configured libc-bin:amd64 2.36-9
2025-06-24 14:36:26 configure libc-bin:amd64 2.36-9 <none>

2025-06-24 14:36:26 trigproc libc-bin:amd64 2.36-9 <none>
"""


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, EXAMPLES / name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def test_the_log_router_counts_what_grep_counts(shared_daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "dpkg.log"
    log.write_text(LOG)
    done = run("log_router.py", log, "--url", shared_daemon.leveret_url)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {line.split()[0]: line.split()[2] for line in done.stdout.splitlines()[1:]}
    assert counts == {"everything": "5", "installed": "1", "configured": "1", "status": "1", "libc-bin": "3"}


@pytest.mark.skipif(not Path("/var/log/dpkg.log").exists(), reason="/var/log/dpkg.log is not on this machine")
def test_the_log_router_on_a_real_log(shared_daemon: Daemon) -> None:
    done = run("log_router.py", "/var/log/dpkg.log", "--url", shared_daemon.leveret_url)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_job_of_a_service_that_was_down_is_done_once(shared_daemon: Daemon) -> None:
    done = run("fallback_retry.py", "--jobs", 20, "--down-s", 0.3, "--url", shared_daemon.leveret_url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accepted 20, done 20" in done.stdout
