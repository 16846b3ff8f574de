"""A message that the disk has altered: nobody gets it, and nobody is left to wonder."""

import subprocess
import sys
from pathlib import Path

import pytest
from daemon import Daemon

import leveret

BODY = bytes(range(256)) * 100  # more than a page of LMDB, or older copies of the page would hold it, too


async def with_a_damaged_message(daemon: Daemon) -> None:
    """Leave the broker stopped, and one bit of the message in its queue another one."""
    async with leveret.connect(daemon.leveret_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("q", durable=True)
        await channel.publish(leveret.Message(BODY), "q")
    assert daemon.terminate() == 0
    store = daemon.data_dir / "log" / "data.mdb"
    whole = store.read_bytes()
    at = whole.index(BODY)
    assert BODY not in whole[at + 1 :]
    with store.open("r+b") as file:
        file.seek(at)
        file.write(bytes((BODY[0] ^ 1,)))


def checked(data_dir: Path) -> "subprocess.CompletedProcess[str]":
    check = [sys.executable, "-m", "leveret", "check", str(data_dir)]
    return subprocess.run(check, capture_output=True, text=True, check=False)


async def test_the_start_does_not_read_it_and_whoever_does_ends_the_broker(daemon: Daemon) -> None:
    await with_a_damaged_message(daemon)
    daemon.start()
    connection = await leveret.connect(daemon.leveret_url, reconnect=False)
    channel = await connection.channel()
    queue = await channel.get_queue("q")
    with pytest.raises(leveret.LeveretError):
        await queue.get()
    assert daemon.wait() == 2
    assert "the log is damaged, stopping without confirming anything more" in daemon.stderr
    assert "leveret: log of group 0, position 2: the blob's CRC is " in daemon.stderr


async def test_the_checker_finds_it(daemon: Daemon) -> None:
    await with_a_damaged_message(daemon)
    done = checked(daemon.data_dir)
    assert done.returncode == 2
    assert done.stdout.startswith("group 0, position 2: the blob's CRC is ")
    assert done.stdout.count("\n") == 1
