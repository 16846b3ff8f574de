"""Who only connects to a broker needs Python and msgpack: no uvloop, and nothing of what a broker needs."""

import subprocess
import sys

import pytest
from daemon import TIMEOUT_FACTOR
from sources import installed_path, python_files

from leveret.testing import Broker

PATIENCE_S = 20 * TIMEOUT_FACTOR

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "leveret", "msgpack"}:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Blocker())
url = sys.argv[1]
"""

IMPORTS = "import importlib\nfor name in sys.argv[2:]:\n    importlib.import_module(name)\n"

ASYNCHRONOUS = """
import asyncio
import leveret

async def main():
    assert type(asyncio.get_running_loop()).__module__.startswith("asyncio")
    async with leveret.connect(url) as connection, connection.channel() as channel:
        queue = await channel.declare_queue()
        await channel.publish(leveret.Message.json({"a": 1}), queue.name)
        return (await queue.get()).decode()

assert leveret.run(main()) == {"a": 1}
"""

SYNCHRONOUS = """
import leveret.sync

with leveret.sync.connect(url) as connection, connection.channel() as channel:
    queue = channel.declare_queue()
    channel.publish(leveret.sync.Message.msgpack([1, 2]), queue.name)
    assert queue.get().decode() == [1, 2]
"""


def modules() -> list[str]:
    files = map(installed_path, python_files("client", "protocol", "src/leveret/sync"))
    return [".".join(("leveret", *file.with_suffix("").parts)).removesuffix(".__init__") for file in files]


@pytest.mark.parametrize(
    ("program", "arguments"),
    [(IMPORTS, modules()), (ASYNCHRONOUS, []), (SYNCHRONOUS, [])],
    ids=["every module", "asynchronous", "synchronous"],
)
def test_python_and_msgpack_are_enough(leveret_broker: Broker, program: str, arguments: list[str]) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", BLOCKER + program, leveret_broker.url]
    result = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert (result.returncode, result.stderr) == (0, "")
