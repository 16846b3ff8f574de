"""The fanout exchange."""

from small_vhost import SmallVhost


def test_everything_bound_gets_everything() -> None:
    house = SmallVhost()
    house.queues("a", "b", "unbound")
    house.bind("a", "amq.fanout", "one key")
    house.bind("b", "amq.fanout", "another")
    assert house.publish("amq.fanout", "a third") == ["a", "b"]


def test_a_queue_bound_twice_gets_one_copy_until_both_bindings_are_gone() -> None:
    house = SmallVhost()
    house.queues("q")
    house.bind("q", "amq.fanout", "1")
    house.bind("q", "amq.fanout", "2")
    assert house.publish("amq.fanout") == ["q"]
    house.unbind("q", "amq.fanout", "1")
    assert house.publish("amq.fanout") == ["q"]
    house.unbind("q", "amq.fanout", "2")
    assert house.publish("amq.fanout") == []
