"""A set of tags is like a plain set, as far back as its window goes, in whatever order it is filled."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from leveret.broker.channels.producers import WINDOW, Producer, ProducerKey, TagRun, TagSet
from leveret.broker.queues.delivery import REFUSED_IN_PART, STORED, TAKEN, Outcome

KEY = ProducerKey("/", b"me")

# Most of them close together, some just about a window apart, some far off.
steps = st.one_of(st.integers(-40, 60), st.integers(WINDOW - 30, WINDOW + 30), st.integers(0, 2**40))
runs = st.lists(st.tuples(steps, st.integers(1, 50)), max_size=25)


def placed(drawn: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(first, last) runs, each so far from the end of the one before."""
    placed, end = [], 0
    for step, count in drawn:
        first = max(1, end + 1 + step)
        end = max(end, first + count - 1)
        placed.append((first, first + count - 1))
    return placed


def probes(model: set[int]) -> set[int]:
    last = max(model, default=0)
    near = {tag + by for tag in model for by in (-1, 0, 1)}
    return {tag for tag in near | {last - WINDOW, last - WINDOW + 1, last + 1} if tag > 0}


@given(runs)
def test_it_has_what_was_added(drawn: list[tuple[int, int]]) -> None:
    tags, model = TagSet(), set[int]()
    for first, last in placed(drawn):
        tags.add(first, last)
        model.update(range(first, last + 1))
        assert tags.last == max(model)
        assert tags.missing.bit_length() <= WINDOW
    for tag in probes(model):
        assert tags.forgets(tag) == (tag <= tags.last - WINDOW)
        assert (tag in tags) == (tag in model and not tags.forgets(tag))


@given(runs, st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_matters(drawn: list[tuple[int, int]], random: Random) -> None:
    added = placed(drawn)
    shuffled = [*added, *random.sample(added, len(added) // 2)]
    random.shuffle(shuffled)
    one, other = TagSet(), TagSet()
    for run in added:
        one.add(*run)
    for run in shuffled:
        other.add(*run)
    assert one.last == other.last
    # What was added below the window is forgotten by the one and never known to the other.
    assert one.missing == other.missing


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.sampled_from(Outcome), max_size=12)), max_size=10))
def test_a_producer_that_comes_back_has_what_was_stored(drawn: list[tuple[int, list[Outcome]]]) -> None:
    producer, folded = Producer(KEY), Producer(KEY)
    became: dict[int, Outcome] = {}
    tag = 1
    for left_out, outcomes in drawn:
        tag += left_out
        became.update(enumerate(outcomes, tag))
        for run in producer.took(tag, outcomes):
            folded.store(TagRun(*run))
        tag += len(outcomes)
    stored = {tag for tag, outcome in became.items() if outcome in (STORED, REFUSED_IN_PART)}
    for loaded in (folded, Producer.from_image(producer.image)):
        assert loaded.image == producer.image
        loaded.come_back()
        for tag, outcome in became.items():
            assert (tag in loaded.accepted) == (tag in stored)
            assert (tag in loaded.refused_in_part) == (outcome is REFUSED_IN_PART)
            assert (tag in producer.accepted) == (tag in stored or outcome is TAKEN)
