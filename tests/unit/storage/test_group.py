from leveret.storage.engine import Append, Fenced, Lease, Position, Unavailable
from leveret.storage.group import GroupState


def item(epoch: int, idx: int) -> Append:
    return Append(0, epoch, idx, b"blob")


def test_nobody_owns_a_new_group() -> None:
    assert isinstance(GroupState().refusal(item(1, 1)), Fenced)


def test_each_owner_begins_where_the_one_before_ended() -> None:
    first = GroupState().acquire()
    assert first.lease() == Lease(1, Position(0))
    second = first.append(b"a").append(b"b").acquire()
    assert second.lease() == Lease(2, Position(2))
    assert second.idx == 0
    assert second.place(item(2, 1)) == 3


def test_only_the_next_idx_and_repeats_are_taken() -> None:
    state = GroupState().acquire().append(b"a")
    assert isinstance(state.refusal(item(1, 0)), Unavailable)
    assert state.refusal(item(1, 1)) is None
    assert state.refusal(item(1, 2)) is None
    assert isinstance(state.refusal(item(1, 3)), Unavailable)
    assert state.is_repeat(item(1, 1))
    assert not state.is_repeat(item(1, 2))


def test_the_chain_goes_on_over_owners() -> None:
    state = GroupState().acquire().append(b"a")
    assert state.acquire().chain == state.chain
    assert state.append(b"b").chain != state.chain
