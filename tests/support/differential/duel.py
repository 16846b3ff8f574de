"""Plays a script on two brokers and says where they differ.

Some scripts have more than one right outcome (two queues feed a third one, two consumers race). So a
difference only counts if it stays: the reference broker plays the script again, and whatever it ever did is
right.
"""

from difflib import unified_diff

from .observation import Observation
from .player import Player
from .script import Script

REPLAYS = 3


class Duel:
    """A reference broker and the one that must be like it."""

    def __init__(self, reference_port: int, port: int) -> None:
        self._reference = Player(reference_port)
        self._player = Player(port)
        self.played = 0
        self.left_to_chance = 0
        """Scripts that differed once and were the same in a replay."""

    def difference(self, script: Script) -> str | None:
        """A readable account of the first step that differs, or None."""
        self.played += 1
        expected = self._reference.play(script)
        actual = self._player.play(script)
        if _first_difference(expected, actual) is None:
            return None
        for _ in range(REPLAYS):
            if (
                _first_difference(self._reference.play(script), actual) is None
                or _first_difference(expected, self._player.play(script)) is None
            ):
                self.left_to_chance += 1
                return None
        return _account(script, expected, actual)

    def close(self) -> None:
        self._reference.close()
        self._player.close()


def _first_difference(expected: list[Observation], actual: list[Observation]) -> int | None:
    """The number of the step. What only one of them played cannot be compared."""
    pairs = zip(expected, actual, strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if not one.is_like(other)), None)


def _account(script: Script, expected: list[Observation], actual: list[Observation]) -> str:
    number = _first_difference(expected, actual)
    assert number is not None
    diff = unified_diff(
        expected[number].lines, actual[number].lines, "RabbitMQ", "Leveret", n=20, lineterm=""
    )
    return "\n".join([f"step {number}: {script.steps[number]!r}", *diff])
