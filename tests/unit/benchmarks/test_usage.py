"""What a process uses includes what its children and grandchildren use."""

import os
import subprocess
import sys

from leveret.benchmarks.usage import Usage, usage_of_family

GRANDCHILD = (
    "held = bytearray(30_000_000); print(1, flush=True); input()"  # until our end of its input closes
)
CHILD = (
    f"import subprocess, sys; subprocess.run([sys.executable, '-c', {GRANDCHILD!r}], start_new_session=True)"
)


def test_a_grandchild_in_a_session_of_its_own_counts() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        usage, ours = usage_of_family(child.pid), usage_of_family(os.getpid())
    assert usage.rss_bytes > 30_000_000 + 2 * 5_000_000
    assert usage.cpu_seconds > 0
    assert ours.rss_bytes > usage.rss_bytes


def test_a_process_that_is_gone_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    assert usage_of_family(process.pid) == Usage()
