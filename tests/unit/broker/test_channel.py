"""What a client can do on a channel, over the real domain and an engine in memory."""

import pytest
from whole_broker import PERSISTENT, TRANSIENT, Client, Delivered, WholeBroker

from leveret.broker.queues.delivery import REFUSED_IN_PART, RETURNED, STORED, TAKEN
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.protocol.errors import AmqpError, HardError, SoftError
from leveret.storage.memory import MemoryEngine


@pytest.fixture
async def broker() -> WholeBroker:
    engine = MemoryEngine()
    await engine.open()
    return await WholeBroker(engine).start()


@pytest.fixture
def client(broker: WholeBroker) -> Client:
    return broker.client()


async def filled(broker: WholeBroker, client: Client, *bodies: bytes) -> None:
    """A durable queue `q` that holds these."""
    client.declare("q")
    client.publish("q", *bodies)
    await broker.commit()


async def test_an_empty_name_means_the_queue_declared_last(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"body")
    assert client.get("") == (b"body", False)
    assert client.channel.queue_purge("") == 0


def test_an_empty_name_without_a_declare_is_an_error(client: Client) -> None:
    with pytest.raises(SoftError, match="no previously declared queue"):
        client.channel.get("", no_ack=True)


def test_binding_with_neither_name_nor_key_binds_by_the_queues_name(client: Client) -> None:
    client.declare("q")
    client.channel.queue_bind("", "amq.direct", "", {})
    client.channel.publish("amq.direct", "q", False, False, TRANSIENT, [b"body"])
    assert client.get("q") == (b"body", False)


# Confirms


async def test_a_confirm_waits_for_the_commit(broker: WholeBroker, client: Client) -> None:
    client.declare("q")
    client.channel.confirm_select()
    client.publish("q", b"1", b"2")
    broker.end_turn()
    assert client.wire.confirms == []
    await broker.commit()
    assert client.wire.confirms == [("ack", 2, True)]


async def test_transient_and_unroutable_publishes_are_confirmed_in_order_with_the_others(
    broker: WholeBroker, client: Client
) -> None:
    client.declare("q")
    client.channel.confirm_select()
    client.publish("q", b"persistent")
    client.publish("q", b"transient", properties=TRANSIENT)
    client.publish("nowhere", b"unroutable")
    await broker.commit()
    assert client.wire.confirms == [("ack", 3, True)]


async def test_a_mandatory_message_is_returned_before_it_is_confirmed(
    broker: WholeBroker, client: Client
) -> None:
    client.channel.confirm_select()
    client.channel.publish("", "nowhere", True, False, PERSISTENT, [b"body"])
    assert client.wire.returned == [(b"body", 312, "NO_ROUTE")]
    assert client.wire.confirms == []
    await broker.commit()
    assert client.wire.confirms == [("ack", 1, False)]


async def test_a_queue_that_is_full_refuses_and_the_publisher_is_told(
    broker: WholeBroker, client: Client
) -> None:
    client.declare("q", x_max_length=1, x_overflow="reject-publish")
    client.channel.confirm_select()
    client.publish("q", b"1", b"2", b"3")
    await broker.commit()
    assert client.wire.confirms == [("ack", 1, False), ("nack", 2, False), ("nack", 3, False)]


async def test_a_closed_channel_sends_no_confirm(broker: WholeBroker, client: Client) -> None:
    client.declare("q")
    client.channel.confirm_select()
    client.publish("q", b"1")
    client.connection.close_channel(1)
    await broker.commit()
    assert client.wire.confirms == []


def test_confirm_and_tx_exclude_each_other(broker: WholeBroker) -> None:
    confirming, transactional = broker.client(), broker.client()
    confirming.channel.confirm_select()
    confirming.channel.confirm_select()
    with pytest.raises(SoftError, match="cannot switch from confirm to tx mode"):
        confirming.channel.tx_select()
    transactional.channel.tx_select()
    with pytest.raises(SoftError, match="cannot switch from tx to confirm mode"):
        transactional.channel.confirm_select()


@pytest.mark.parametrize(
    ("expiration", "reason"),
    [
        ("abc", "no_integer"),
        ("", "no_integer"),
        ("10foobar", '{leftover_string,"foobar"}'),
        ("-10", "{value_negative,-10}"),
        ("315360000001", "{value_too_large,315360000001}"),
    ],
)
def test_an_expiration_that_is_no_ttl(client: Client, expiration: str, reason: str) -> None:
    with pytest.raises(SoftError) as caught:
        client.publish("q", b"", properties=encode_properties(BasicProperties(expiration=expiration)))
    assert caught.value.explanation == f"invalid expiration '{expiration}': {reason}"


def test_a_user_id_that_is_somebody_elses(client: Client) -> None:
    client.publish("q", b"", properties=encode_properties(BasicProperties(user_id="guest")))
    with pytest.raises(SoftError, match="user_id property set to 'eve' but authenticated user was 'guest'"):
        client.publish("q", b"", properties=encode_properties(BasicProperties(user_id="eve")))


def test_immediate_is_not_implemented(client: Client) -> None:
    with pytest.raises(HardError, match="immediate=true"):
        client.channel.publish("", "q", False, True, TRANSIENT, [b""])


# Consuming


async def test_prefetch_limits_a_consumer_until_it_acks(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"1", b"2", b"3")
    client.channel.qos(0, 2, False)
    client.consume("q")
    await broker.commit()
    assert client.wire.bodies == [b"1", b"2"]
    client.channel.ack(1, multiple=False)
    broker.end_turn()
    assert client.wire.bodies == [b"1", b"2", b"3"]


async def test_a_channel_wide_prefetch_is_shared_and_can_be_raised(
    broker: WholeBroker, client: Client
) -> None:
    await filled(broker, client, b"1", b"2", b"3", b"4")
    client.channel.qos(0, 1, True)
    client.consume("q", "one")
    client.consume("q", "two")
    await broker.commit()
    assert client.wire.bodies == [b"1"]
    client.channel.qos(0, 3, True)
    broker.end_turn()
    assert client.wire.bodies == [b"1", b"2", b"3"]
    client.channel.ack(2, multiple=True)
    broker.end_turn()
    assert client.wire.bodies == [b"1", b"2", b"3", b"4"]


async def test_consumers_take_turns(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, *(b"%d" % number for number in range(6)))
    client.consume("q", "one")
    client.consume("q", "two")
    await broker.commit()
    assert [delivered.consumer_tag for delivered in client.wire.delivered] == ["one", "two"] * 3


async def test_without_ack_a_delivery_is_the_end(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"1")
    client.consume("q", no_ack=True)
    await broker.commit()
    assert client.wire.delivered == [Delivered("consumer", 1, b"1", redelivered=False)]
    assert client.channel.unacked_count == 0
    with pytest.raises(SoftError, match="unknown delivery tag 1"):
        client.channel.ack(1, multiple=False)


async def test_a_slow_reader_gets_nothing_until_its_socket_drains(
    broker: WholeBroker, client: Client
) -> None:
    await filled(broker, client, b"1")
    client.wire.writable = False
    client.consume("q")
    await broker.commit()
    assert client.wire.bodies == []
    client.wire.writable = True
    client.channel.wake_consumers()
    broker.end_turn()
    assert client.wire.bodies == [b"1"]


async def test_closing_a_channel_requeues_in_order(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"1", b"2", b"3")
    client.channel.qos(0, 2, False)
    client.consume("q")
    await broker.commit()
    client.connection.close_channel(1)
    assert broker.client().drain("q") == [(b"1", True), (b"2", True), (b"3", False)]


async def test_cancel_keeps_what_was_delivered(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"1")
    client.consume("q")
    await broker.commit()
    client.channel.cancel("consumer")
    client.channel.cancel("never started")
    assert broker.client().drain("q") == []
    client.channel.ack(1, multiple=False)


async def test_nack_and_reject_requeue_to_the_original_position(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"1", b"2", b"3", b"4")
    for _ in range(3):
        client.get("q")
    client.channel.nack(2, multiple=True, requeue=True)
    client.channel.reject(3, requeue=True)
    assert client.drain("q") == [(b"1", True), (b"2", True), (b"3", True), (b"4", False)]


async def test_recover_requeues_everything_of_the_channel(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"1", b"2")
    client.drain("q")
    client.channel.recover()
    assert client.drain("q") == [(b"1", True), (b"2", True)]


@pytest.mark.parametrize("multiple", [False, True])
async def test_an_unknown_delivery_tag(broker: WholeBroker, client: Client, multiple: bool) -> None:
    await filled(broker, client, b"1", b"2")
    client.drain("q")
    client.channel.ack(1, multiple=False)
    for tag in (1, 3):
        with pytest.raises(SoftError, match=f"unknown delivery tag {tag}"):
            client.channel.ack(tag, multiple)
    assert client.channel.unacked_count == 1


async def test_zero_and_multiple_mean_everything(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"1", b"2")
    client.drain("q")
    client.channel.ack(0, multiple=True)
    client.channel.ack(0, multiple=True)
    assert client.channel.unacked_count == 0


async def test_a_rejected_message_goes_to_the_dead_letter_exchange(
    broker: WholeBroker, client: Client
) -> None:
    client.declare("dead")
    client.declare("q", x_dead_letter_exchange="", x_dead_letter_routing_key="dead")
    client.publish("q", b"1")
    client.get("q")
    client.channel.reject(1, requeue=False)
    broker.end_turn()
    assert client.get("dead") == (b"1", False)


def test_a_consumer_tag_is_used_once(client: Client) -> None:
    client.declare("q")
    client.consume("q", "tag")
    for queue in ("q", "missing", "amq.rabbitmq.reply-to"):  # before the queue is looked at, as in RabbitMQ
        with pytest.raises(HardError, match="attempt to reuse consumer tag 'tag'"):
            client.consume(queue, "tag", no_ack=True)


def test_the_broker_names_consumers(client: Client) -> None:
    client.declare("q")
    tag = client.channel.consume("q", "", no_ack=False, exclusive=False, arguments={})
    assert tag.startswith("amq.ctag-")
    assert len(tag) == len("amq.ctag-") + 22


async def test_deleting_a_queue_cancels_its_consumers(broker: WholeBroker, client: Client) -> None:
    client.declare("q")
    client.consume("q")
    broker.client().channel.queue_delete("q", if_unused=False, if_empty=False)
    assert client.wire.cancelled == ["consumer"]
    assert client.channel.consumers == {}


def test_prefetch_size_is_not_implemented(client: Client) -> None:
    with pytest.raises(HardError) as caught:
        client.channel.qos(10, 0, False)
    assert caught.value.explanation == "prefetch_size!=0 (10)"


# Exclusive queues


def test_an_exclusive_queue_goes_with_its_connection(broker: WholeBroker, client: Client) -> None:
    client.channel.queue_declare(
        "mine", passive=False, durable=False, exclusive=True, auto_delete=False, arguments={}
    )
    with pytest.raises(AmqpError, match="cannot obtain exclusive access"):
        broker.client().get("mine")
    client.connection.close()
    with pytest.raises(SoftError, match="no queue 'mine'"):
        broker.client().get("mine")


# Transactions


async def test_commit_publishes_and_settles_at_once(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"job")
    client.declare("results")
    client.channel.tx_select()
    client.get("q")
    client.publish("results", b"result")
    client.channel.ack(1, multiple=False)
    assert broker.client().drain("results") == []
    client.channel.tx_commit()
    await broker.commit()
    assert client.channel.unacked_count == 0
    assert broker.client().drain("results") == [(b"result", False)]


async def test_rollback_forgets_publishes_and_leaves_deliveries_unacked(
    broker: WholeBroker, client: Client
) -> None:
    await filled(broker, client, b"job")
    client.channel.tx_select()
    client.get("q")
    client.publish("q", b"never")
    client.channel.nack(1, multiple=False, requeue=True)
    client.channel.tx_rollback()
    assert client.channel.unacked_count == 1
    assert client.drain("q") == []
    client.channel.ack(1, multiple=False)
    client.channel.tx_commit()
    assert client.channel.unacked_count == 0


def test_commit_without_select(client: Client) -> None:
    for operation in (client.channel.tx_commit, client.channel.tx_rollback):
        with pytest.raises(SoftError, match="channel is not transactional"):
            operation()


async def test_what_becomes_of_messages_that_are_published_together(
    broker: WholeBroker, client: Client
) -> None:
    client.channel.confirm_select()
    client.declare("all")
    client.declare("some", x_max_length=2, x_overflow="reject-publish")
    for queue in ("all", "some"):
        client.channel.queue_bind(queue, "amq.fanout", "", {})
    publish = client.channel.publish
    assert publish("amq.fanout", "", False, False, PERSISTENT, [b"1", b"2", b"3"]) == [
        STORED,
        STORED,
        REFUSED_IN_PART,
    ]
    assert list(publish("", "nowhere", True, False, PERSISTENT, [b"4", b"5"])) == [RETURNED] * 2
    assert list(publish("", "all", False, False, TRANSIENT, [b"6", b"7"])) == [TAKEN] * 2
    await broker.commit()
    assert client.wire.confirms == [("ack", 2, True), ("nack", 3, False), ("ack", 7, True)]
    assert [body for body, _, _ in client.wire.returned] == [b"4", b"5"]
    assert [body for body, _ in client.drain("all")] == [b"1", b"2", b"3", b"6", b"7"]
    assert [body for body, _ in client.drain("some")] == [b"1", b"2"]


async def test_messages_handed_out_while_their_like_are_published_are_gone_for_good() -> None:
    engine = MemoryEngine()
    await engine.open()
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q", x_max_length=1, x_overflow="reject-publish")
    await broker.commit()
    client.consume("q", no_ack=True)
    await broker.commit()
    client.channel.publish("", "q", False, False, PERSISTENT, [b"1", b"2", b"3"])
    await broker.commit()
    assert client.wire.bodies == [b"1", b"2", b"3"]
    after = await WholeBroker(engine).start()
    assert after.client().drain("q") == []


async def test_a_commit_says_what_each_publish_met(broker: WholeBroker, client: Client) -> None:
    client.declare("full", x_max_length=1, x_overflow="reject-publish")
    client.channel.tx_select()
    client.publish("full", b"1", b"2")
    client.channel.publish("", "nowhere", True, False, PERSISTENT, [b"3"])
    started: list[int] = []
    assert client.channel.tx_commit(started.append) == [1]
    assert started == [0, 1, 2]
    assert client.channel.tx_commit() == []


async def test_closing_a_channel_undoes_its_transaction(broker: WholeBroker, client: Client) -> None:
    await filled(broker, client, b"job")
    client.channel.tx_select()
    client.get("q")
    client.channel.ack(1, multiple=False)
    client.connection.close()
    assert broker.client().drain("q") == [(b"job", True)]


# Direct reply-to

REQUEST = encode_properties(BasicProperties(reply_to="amq.rabbitmq.reply-to"))


async def reply_name(broker: WholeBroker, client: Client) -> str:
    """Have a client wait for answers; returns the reply-to that its request arrived with."""
    client.consume("amq.rabbitmq.reply-to", "answers", no_ack=True)
    client.declare("requests")
    client.publish("requests", b"question", properties=REQUEST)
    got = broker.client().channel.get("requests", no_ack=True)
    assert got is not None
    await broker.commit()
    name = got.copy.message.facts.reply_to
    assert name is not None
    assert name.startswith("amq.rabbitmq.reply-to.")
    return name


async def test_an_answer_goes_straight_to_the_channel_that_asked(broker: WholeBroker, client: Client) -> None:
    name = await reply_name(broker, client)
    broker.client().channel.publish("", name, True, False, TRANSIENT, [b"answer"])
    assert client.wire.delivered == [Delivered("answers", 1, b"answer", redelivered=False)]


async def test_an_answer_that_nobody_waits_for_is_dropped_but_counts_as_routed(
    broker: WholeBroker, client: Client
) -> None:
    name = await reply_name(broker, client)
    client.channel.cancel("answers")
    replier = broker.client()
    replier.channel.publish("", name, True, False, TRANSIENT, [b"late"])
    assert client.wire.delivered == []
    assert replier.wire.returned == []


def test_a_passive_declare_does_not_mean_the_last_declared_queue(client: Client) -> None:
    """RabbitMQ's way, and unlike its other methods."""
    client.declare("q")
    with pytest.raises(SoftError, match="no queue '' in vhost '/'"):
        client.channel.queue_declare(
            "", passive=True, durable=False, exclusive=False, auto_delete=False, arguments={}
        )


async def test_the_declared_name_is_the_last_one_declared(broker: WholeBroker, client: Client) -> None:
    name = await reply_name(broker, client)
    channel = broker.client().channel
    channel.queue_declare(name, passive=True, durable=False, exclusive=False, auto_delete=False, arguments={})
    with pytest.raises(SoftError, match=f"no queue '{name}'"):
        channel.get("", no_ack=True)


def test_replies_can_be_consumed_as_the_last_declared_queue(client: Client) -> None:
    client.consume("amq.rabbitmq.reply-to", "tag", no_ack=True)
    client.channel.queue_declare(
        "amq.rabbitmq.reply-to", passive=True, durable=False, exclusive=False, auto_delete=False, arguments={}
    )
    with pytest.raises(SoftError, match="reply consumer already set"):
        client.consume("", "another", no_ack=True)


async def test_declaring_the_name_tells_whether_somebody_waits(broker: WholeBroker, client: Client) -> None:
    name = await reply_name(broker, client)

    def declare() -> tuple[str, int, int]:
        return tuple(  # type: ignore[return-value]  # of the named tuple
            broker.client().channel.queue_declare(
                name, passive=True, durable=False, exclusive=False, auto_delete=False, arguments={}
            )
        )

    assert declare() == (name, 0, 1)
    client.connection.close()
    with pytest.raises(SoftError, match=f"no queue '{name}'"):
        declare()


def test_the_rules_of_direct_reply_to(client: Client) -> None:
    with pytest.raises(SoftError, match="fast reply consumer does not exist"):
        client.publish("q", b"", properties=REQUEST)
    with pytest.raises(SoftError, match="reply consumer cannot acknowledge"):
        client.consume("amq.rabbitmq.reply-to")
    client.consume("amq.rabbitmq.reply-to", no_ack=True)
    with pytest.raises(SoftError, match="reply consumer already set"):
        client.consume("amq.rabbitmq.reply-to", "another", no_ack=True)
    with pytest.raises(SoftError, match="reply consumer cannot acknowledge"):
        client.consume("amq.rabbitmq.reply-to", "another")


def test_the_reply_consumer_is_cancelled_before_another_of_its_tag(client: Client) -> None:
    client.declare("q")
    client.consume("amq.rabbitmq.reply-to", "tag", no_ack=True)
    client.consume("q", "tag")
    client.channel.cancel("tag")
    assert set(client.channel.consumers) == {"tag"}
    client.consume("amq.rabbitmq.reply-to", "another", no_ack=True)


# Consumers that do not ack


async def with_timeout(broker: WholeBroker, client: Client, timeout_ms: int) -> None:
    """Two deliveries of a queue with an ack timeout; time starts now."""
    client.declare("q", x_consumer_timeout=timeout_ms)
    client.publish("q", b"1", b"2")
    client.consume("q")
    await broker.commit()
    client.connection.take_back_overdue(0.0)


async def test_a_delivery_without_ack_is_taken_back_and_its_consumer_ended(
    broker: WholeBroker, client: Client
) -> None:
    await with_timeout(broker, client, 60_000)
    client.channel.ack(1, multiple=False)
    client.connection.take_back_overdue(59.0)
    assert client.wire.cancelled == []
    client.connection.take_back_overdue(60.0)
    assert client.wire.cancelled == ["consumer"]
    assert client.wire.closed_by == []
    assert broker.client().drain("q") == [(b"2", True)]


async def test_the_late_ack_of_what_was_taken_back_is_no_error(broker: WholeBroker, client: Client) -> None:
    await with_timeout(broker, client, 1_000)
    client.connection.take_back_overdue(2.0)
    client.channel.ack(1, multiple=False)
    with pytest.raises(SoftError, match="unknown delivery tag 1"):
        client.channel.ack(1, multiple=False)
    client.channel.nack(2, multiple=True, requeue=False)
    assert broker.client().drain("q") == [(b"1", True), (b"2", True)]


async def test_a_client_that_cannot_be_told_loses_its_channel(broker: WholeBroker, client: Client) -> None:
    client.wire.understands_cancel = False
    await with_timeout(broker, client, 1_000)
    client.connection.take_back_overdue(2.0)
    (error,) = client.wire.closed_by
    assert "delivery acknowledgement on channel 1 timed out. Timeout value used: 1000 ms." in str(error)


async def test_a_younger_delivery_is_left_alone(broker: WholeBroker, client: Client) -> None:
    client.channel.qos(0, 1, False)
    await with_timeout(broker, client, 10_000)
    client.connection.take_back_overdue(9.0)
    client.channel.ack(1, multiple=False)
    broker.end_turn()
    for now_s in (9.5, 12.0, 19.0):
        client.connection.take_back_overdue(now_s)
        assert client.channel.unacked_count == 1
    client.connection.take_back_overdue(19.5)
    assert client.channel.unacked_count == 0


async def test_the_consumers_own_timeout_comes_first(broker: WholeBroker, client: Client) -> None:
    client.declare("q", x_consumer_timeout=1_000)
    client.publish("q", b"1")
    client.channel.consume("q", "patient", no_ack=False, exclusive=False, arguments={"x-consumer-timeout": 0})
    await broker.commit()
    for now_s in (0.0, 10_000.0):
        client.connection.take_back_overdue(now_s)
    assert client.channel.unacked_count == 1


def test_a_missing_exchange_is_noticed_before_anything_in_the_properties(client: Client) -> None:
    wrong = encode_properties(BasicProperties(expiration="soon", user_id="eve"))
    with pytest.raises(SoftError, match="no exchange 'nowhere'"):
        client.channel.publish("nowhere", "", False, False, wrong, [b""])
    with pytest.raises(SoftError, match="user_id property"):  # and this before the expiration
        client.channel.publish("", "", False, False, wrong, [b""])
