"""Garbage is collected after many closed sockets, or some time."""

import gc

import pytest

from leveret.broker.daemon.garbage import AFTER_CLOSED, AFTER_S, Garbage


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    made: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: made.append(1))
    return made


@pytest.fixture
def garbage(collections: list[int]) -> Garbage:
    return Garbage(AFTER_S)


def test_after_many_closed_sockets(garbage: Garbage, collections: list[int]) -> None:
    garbage.closed = AFTER_CLOSED - 1
    garbage.look(AFTER_S + 1)
    assert collections == []
    garbage.closed += 1
    garbage.look(AFTER_S + 2)
    garbage.look(AFTER_S + 3)
    assert collections == [1]


def test_after_some_time(garbage: Garbage, collections: list[int]) -> None:
    garbage.look(2 * AFTER_S - 1)
    assert collections == []
    garbage.look(2 * AFTER_S)
    garbage.look(2 * AFTER_S + 1)
    assert collections == [1]
