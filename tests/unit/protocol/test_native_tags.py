"""Sets of tags."""

from leveret.protocol.native.tags import pack_tags


def test_nothing_is_an_empty_set() -> None:
    assert pack_tags([]) == []


def test_neighbours_become_ranges_in_whatever_order_they_come() -> None:
    assert pack_tags([5, 3, 4, 9, 1, 8]) == [1, [3, 5], [8, 9]]


def test_a_range_does_not_grow_over_its_limit() -> None:
    assert pack_tags(range(1, 65_540)) == [[1, 65_536], [65_537, 65_539]]
