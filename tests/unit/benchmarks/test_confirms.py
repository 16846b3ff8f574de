"""A publisher knows what is confirmed, whatever the order in which a broker says so."""

from leveret.benchmarks.load.confirms import Confirms


def sent(*messages: int) -> Confirms:
    confirms = Confirms()
    for number, count in enumerate(messages):
        confirms.sent(count, float(number))
    return confirms


def test_many_at_once() -> None:
    confirms = sent(10)
    confirms.settle(0, 7, confirmed=True)
    assert (confirms.settled, confirms.waiting) == (7, 3)


def test_one_by_one_and_out_of_order() -> None:
    confirms = sent(5)
    for tag in (3, 2, 5, 1):
        confirms.settle(tag, tag, confirmed=True)
    assert (confirms.settled, confirms.waiting) == (4, 1)
    confirms.settle(0, 5, confirmed=True)
    assert confirms.waiting == 0


def test_ranges_that_overlap_what_is_known() -> None:
    confirms = sent(20)
    confirms.settle(5, 8, confirmed=True)
    confirms.settle(1, 6, confirmed=True)
    assert confirms.settled == 8
    confirms.settle(7, 8, confirmed=True)
    assert confirms.settled == 8


def test_a_send_is_answered_when_all_of_it_is_confirmed() -> None:
    confirms = sent(2, 2, 2)
    confirms.settle(2, 4, confirmed=True)
    assert list(confirms.answered()) == []
    confirms.settle(1, 1, confirmed=True)
    assert list(confirms.answered()) == [0.0, 1.0]
    assert list(confirms.answered()) == []


def test_refusals_are_counted_once() -> None:
    confirms = sent(10)
    confirms.settle(0, 4, confirmed=True)
    confirms.settle(0, 6, confirmed=False)
    assert (confirms.refused, confirms.settled) == (2, 6)


def test_a_confirm_of_nothing_shows() -> None:
    confirms = sent(1)
    confirms.settle(0, 2, confirmed=True)
    assert confirms.waiting < 0
