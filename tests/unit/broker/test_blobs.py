"""What is known of the log's blobs without reading them: how much of each is needed."""

import pytest

from leveret.broker.durability.blobs import SPARSE_SHARE, Blobs, StoredBlob


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


def entered(blobs: Blobs, position: int, *, size: int = 100, copies: int = 10, live: int = 10) -> StoredBlob:
    blob = StoredBlob(blobs, position)
    blob.add(copies)
    blob.release(copies - live)
    blob.size = size
    blobs.enter(blob)
    return blob


def test_a_blob_is_found_by_its_position(blobs: Blobs) -> None:
    blob = entered(blobs, 7)
    assert blobs[7] is blobs.get(7) is blob
    assert blobs.get(8) is None
    assert (len(blobs), list(blobs)) == (1, [blob])


def test_a_blob_without_live_copies_is_dead_at_once(blobs: Blobs) -> None:
    settles = entered(blobs, 1, size=40, copies=0, live=0)
    recovered = entered(blobs, 2, size=60, copies=5, live=0)
    assert list(blobs.dead) == [settles, recovered]
    assert (blobs.size, blobs.dead_size, blobs.live_size) == (100, 100, 0)


def test_a_blob_becomes_sparse_and_then_dies(blobs: Blobs) -> None:
    blob = entered(blobs, 1)
    blob.release(5)
    assert list(blobs.sparse) == [], "just half of it is alive"
    blob.release(1)
    assert list(blobs.sparse) == [blob]
    assert blob.live_size == blobs.live_size == pytest.approx(40)
    assert list(blobs.dead) == []
    blob.release(4)
    assert (list(blobs.sparse), list(blobs.dead)) == ([], [blob])
    assert (blobs.size, blobs.dead_size, blobs.live_size) == (100, 100, pytest.approx(0))


def test_a_recovered_blob_may_be_sparse_from_the_start(blobs: Blobs) -> None:
    blob = entered(blobs, 1, live=4)
    assert list(blobs.sparse) == [blob]
    assert blobs.live_size == pytest.approx(40)


def test_the_sums_are_those_of_the_blobs(blobs: Blobs) -> None:
    some = [entered(blobs, position, size=position * 10, live=position) for position in range(1, 11)]
    for blob in some[::2]:
        blob.release(1)
    assert blobs.size == sum(blob.size for blob in some)
    assert blobs.live_size == pytest.approx(sum(blob.live_size for blob in some))
    assert blobs.dead_size == sum(blob.size for blob in some if not blob.live_copies) == 10
    assert set(blobs.sparse) == {blob for blob in some if 0 < blob.live_copies < 10 * SPARSE_SHARE}


def test_what_ends_before_a_blob_is_entered_counts_when_it_is(blobs: Blobs) -> None:
    blob = StoredBlob(blobs, 1)
    blob.add(4)
    blob.release(3)
    assert (blobs.live_size, list(blobs.sparse)) == (0, [])
    blob.size = 100
    blobs.enter(blob)
    assert (blobs.live_size, list(blobs.sparse)) == (pytest.approx(25), [blob])


def test_a_blob_left_alone_is_looked_at_again_at_half_of_what_lives(blobs: Blobs) -> None:
    blob = entered(blobs, 1, live=4)
    assert blob.live_size == pytest.approx(40)
    blobs.leave_alone(blob, 100)
    assert blob.live_size == blobs.live_size == pytest.approx(100), "so that nobody waits for nothing"
    assert list(blobs.sparse) == []
    blob.release(2)
    assert list(blobs.sparse) == []
    blob.release(1)
    assert list(blobs.sparse) == [blob]


def test_a_dropped_blob_is_forgotten(blobs: Blobs) -> None:
    dead, alive = entered(blobs, 1, size=30, live=0), entered(blobs, 2, size=70)
    blobs.remove(dead)
    assert list(blobs) == [alive]
    assert (blobs.size, blobs.dead_size, list(blobs.dead)) == (70, 0, [])


def test_a_blob_with_a_large_message_lies_where_its_parts_do(blobs: Blobs) -> None:
    blob = StoredBlob(blobs, 9)
    blob.parts = range(5, 8)
    assert blob.positions == [5, 6, 7, 9]
