"""Route the lines of a package manager's log through a topic exchange, and count them against grep.

    python examples/log_router.py /var/log/dpkg.log

Each line is published with the key `log.<action>.<package>`; queues bound with wildcards get what they ask
for. At the end every queue must hold as many lines as grep finds in the file. Exits with 1 if one does not.
"""

import argparse
import asyncio
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import leveret

EXCHANGE = "example.log"
IN_FLIGHT = 500  # publishes that wait for their confirm at once

# Queue -> (binding key, what grep -E looks for to find the same lines).
QUEUES = {
    "everything": ("log.#", r"^[^ ]+ [^ ]+ [^ ]+"),
    "installed": ("log.install.*", r"^[^ ]+ [^ ]+ install "),
    "configured": ("*.configure.#", r"^[^ ]+ [^ ]+ configure "),
    "status": ("log.status.*", r"^[^ ]+ [^ ]+ status "),
    "libc-bin": ("#.libc-bin", r"^[^ ]+ [^ ]+ (status )?[^ ]+ libc-bin:"),
}


def routing_key(line: str) -> str | None:
    """`2025-06-24 14:36:25 upgrade libsystemd0:amd64 252.36 252.38` gives `log.upgrade.libsystemd0`.

    A dot would begin another word of the key, so `python3.11` becomes `python3_11`: no package has an
    underscore in its name. None for a line that says nothing.
    """
    words = line.split()
    if len(words) < 3:
        return None
    action = words[2]
    package = words[4] if action == "status" and len(words) > 4 else words[3] if len(words) > 3 else "-"
    return f"log.{action}.{package.partition(':')[0].replace('.', '_')}"


async def publish(exchange: leveret.Exchange, lines: Iterable[str]) -> int:
    """Returns how many lines were published and confirmed."""
    published = 0
    rest = iter(lines)
    while some := list(islice(rest, IN_FLIGHT)):
        keyed = [(key, line) for line in some if (key := routing_key(line)) is not None]
        await asyncio.gather(*(exchange.publish(leveret.Message(line.encode()), key) for key, line in keyed))
        published += len(keyed)
    return published


async def count(queue: leveret.Queue) -> int:
    """Take everything out of a queue."""
    taken = 0
    while await queue.get(no_ack=True, fail=False) is not None:
        taken += 1
    return taken


def grep(pattern: str, file: Path) -> int:
    """How many lines match, as grep counts them."""
    found = subprocess.run(["grep", "-cE", "-e", pattern, file], capture_output=True, text=True, check=False)
    if found.returncode > 1:
        raise SystemExit(found.stderr.strip())
    return int(found.stdout)


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, help="a log such as /var/log/dpkg.log")
    parser.add_argument("--url", default="leveret://guest:guest@127.0.0.1:5672/")
    options = parser.parse_args()
    with options.file.open(encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip("\n") for line in file]

    async with leveret.connect(options.url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(EXCHANGE, leveret.ExchangeType.TOPIC, durable=True)
        queues: dict[str, leveret.Queue] = {}
        for name, (binding_key, _) in QUEUES.items():
            queue = await channel.declare_queue(f"{EXCHANGE}.{name}", durable=True)
            await queue.purge()
            await queue.bind(exchange, binding_key)
            queues[name] = queue

        published = await publish(exchange, lines)
        print(f"published {published} of {len(lines)} lines")
        exit_code = 0
        for name, (binding_key, pattern) in QUEUES.items():
            routed, found = await count(queues[name]), grep(pattern, options.file)
            verdict = "" if routed == found else "  DIFFERS"
            print(f"{name:12} {binding_key:16} {routed:7} messages {found:7} lines{verdict}")
            if verdict:
                exit_code = 1
            await queues[name].delete()
        await exchange.delete()
    return exit_code


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
