"""Sets of publish and delivery tags as they travel (docs/native-protocol.md 2.3): single tags and ranges."""

from collections.abc import Iterable

from .fields import TAG_RANGE_MAX

TagElement = int | list[int]


def pack_tags(tags: Iterable[int]) -> list[TagElement]:
    """Tags in any order as a set: runs of neighbours become ranges."""
    packed: list[TagElement] = []
    first = last = 0
    for tag in sorted(tags):
        if tag == last + 1 and last and tag - first < TAG_RANGE_MAX:
            last = tag
            continue
        if last:
            packed.append(first if first == last else [first, last])
        first = last = tag
    if last:
        packed.append(first if first == last else [first, last])
    return packed
