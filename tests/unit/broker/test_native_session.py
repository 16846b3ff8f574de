"""The native session over the real domain, without sockets: a client's frames in, the broker's frames out."""

import pytest
from native_house import F, Peer, entry
from whole_broker import PERSISTENT, TRANSIENT, WholeBroker

from leveret.broker.alarms import Limits
from leveret.broker.sessions.native_session import (
    CLOSE_TIMEOUT_S,
    HELD_REPLIES_MAX,
    TURN_OUTPUT_MAX_BYTES,
)
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.protocol.errors import HardError
from leveret.protocol.native.connection import BATCH_BYTES, ENTRY_OVERHEAD_BYTES, FRAME_OVERHEAD_BYTES
from leveret.protocol.native.framing import LENGTH
from leveret.protocol.reply_codes import ReplyCode
from leveret.storage.memory import MemoryEngine


@pytest.fixture
def peer(house: WholeBroker) -> Peer:
    """A client with channel 1 open."""
    return Peer(house).open()


class TestLogin:
    async def test_a_good_one_is_welcome(self, house: WholeBroker) -> None:
        peer = Peer(house)
        [welcome] = peer.log_in()
        assert welcome[0] == F.WELCOME
        assert welcome[2:5] == [10, 60, 1 << 20]
        assert welcome[5]["product"] == "leveret"
        assert peer.session.is_established
        assert len(house.broker.connections) == 1

    @pytest.mark.parametrize(("password", "vhost", "code"), [("wrong", "/", 403), ("guest", "nowhere", 530)])
    async def test_a_bad_one_is_told_why(
        self, house: WholeBroker, password: str, vhost: str, code: int
    ) -> None:
        peer = Peer(house)
        [close] = peer.log_in(password, vhost)
        assert close[:2] == [F.CLOSE, code]
        assert not peer.session.is_established
        peer.protocol.answer_close()
        peer.exchange()
        assert peer.session.is_closed
        assert not house.broker.connections

    async def test_guest_stays_at_home(self, house: WholeBroker) -> None:
        [close] = Peer(house, peer_is_loopback=False).log_in()
        assert close[:2] == [F.CLOSE, 403]

    async def test_the_log_has_the_name_that_the_client_gave_itself(
        self, house: WholeBroker, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        Peer(house).log_in(connection_name="worker\n1")
        assert "user 'guest' opened vhost '/' as 'worker\\n1'" in caplog.text


class TestRequests:
    async def test_a_durable_change_is_answered_when_it_is_on_the_disk(self, peer: Peer) -> None:
        peer.protocol.send(F.QUEUE_DECLARE, 2, 1, "q", False, True)
        peer.session.receive_data(b"".join(peer.protocol.data_to_send()))
        assert peer.host.wants_flush  # the end of the turn starts the commit
        assert peer.read() == []
        assert await peer.durable() == [[F.REPLY, 2, ["q", 0, 0]]]

    async def test_a_waiting_reply_holds_nothing_else_back(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "q", False, True, False, False, {})
        assert peer.request(F.QUEUE_DECLARE, "t", False, False, False, False, {}) == [
            [F.REPLY, 3, ["t", 0, 0]]
        ]
        assert await peer.durable() == [[F.REPLY, 2, ["q", 0, 0]]]

    async def test_a_client_that_floods_with_durable_changes_has_to_wait(self, peer: Peer) -> None:
        for number in range(HELD_REPLIES_MAX):
            peer.protocol.send(F.QUEUE_DECLARE, number + 10, 1, f"q{number}", False, True, False, False, {})
        assert peer.exchange() == []
        assert peer.host.holds == 1
        assert len(await peer.durable()) == HELD_REPLIES_MAX
        assert peer.host.holds == 0

    async def test_an_error_is_the_answer_and_the_channel_stays_open(self, peer: Peer) -> None:
        [error] = peer.request(F.QUEUE_PURGE, "missing")
        assert error == [F.ERROR, 2, 404, "NOT_FOUND - no queue 'missing' in vhost '/'", F.QUEUE_PURGE]
        [error] = peer.request(F.EXCHANGE_DECLARE, "amq.mine", "direct")
        assert error[2] == 403
        assert peer.request(F.QUEUE_DECLARE, "t") == [[F.REPLY, 4, ["t", 0, 0]]]

    async def test_even_one_that_would_end_an_amqp_connection(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.request(F.CONSUME, "t", 1, "tag")
        [error] = peer.request(F.CONSUME, "t", 2, "tag")
        assert error[2:4] == [530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'"]

    async def test_a_request_without_answer_that_fails_closes_its_channel(self, peer: Peer) -> None:
        text = "PRECONDITION_FAILED - unknown delivery tag 5"
        assert peer.send(F.ACK, 0, 1, [5]) == [[F.CHANNEL_CLOSED, 1, 406, text, F.ACK]]
        [connection] = peer.house.broker.connections
        assert connection.channels == {}
        peer.request(F.CHANNEL_CLOSE)
        peer.open()

    async def test_frames_behind_a_failure_in_the_same_data_are_dropped(self, peer: Peer) -> None:
        peer.protocol.send(F.ACK, 0, 1, [5])
        peer.protocol.send(F.QUEUE_DECLARE, 7, 1, "t")
        peer.protocol.send(F.PUBLISH, 1, 1, [entry("t")])
        assert [frame[0] for frame in peer.exchange()] == [F.CHANNEL_CLOSED, F.ERROR]

    async def test_exchanges_bindings_and_deletes(self, peer: Peer) -> None:
        requests = [
            (F.EXCHANGE_DECLARE, "x", "fanout"),
            (F.EXCHANGE_DECLARE, "y", "topic"),
            (F.EXCHANGE_BIND, "x", "y", "a.#", {}),
            (F.QUEUE_DECLARE, "t"),
            (F.QUEUE_BIND, "t", "x", "", {}),
        ]
        for request in requests:
            assert peer.request(*request)[0][0] == F.REPLY
        assert peer.publish(["y", "a.b", 1, TRANSIENT, b"body"]) == []
        assert peer.request(F.QUEUE_UNBIND, "t", "x", "", {})[0][0] == F.REPLY
        assert peer.request(F.EXCHANGE_UNBIND, "x", "y", "a.#", {})[0][0] == F.REPLY
        assert peer.request(F.EXCHANGE_DELETE, "x", True)[0][0] == F.REPLY
        assert peer.request(F.QUEUE_PURGE, "t")[0][2] == [1]
        assert peer.request(F.QUEUE_DELETE, "t", True, True)[0][2] == [0]

    async def test_closing_a_channel_requeues(self, peer: Peer) -> None:
        await peer.declare("q")
        peer.publish(entry("q"))
        peer.request(F.GET, "q")
        await peer.durable()
        assert peer.request(F.CHANNEL_CLOSE)[0][0] == F.REPLY
        assert peer.house.broker.vhosts["/"].queues["q"].message_count == 1


class TestPublish:
    async def test_a_batch_is_confirmed_by_one_frame_after_the_commit(self, peer: Peer) -> None:
        await peer.declare("q")
        assert peer.publish(entry("q"), entry("q"), entry("q")) == []
        assert await peer.durable() == [[F.CONFIRM, 1, [[0, 3]]]]

    async def test_a_failed_message_is_refused_by_its_tag_and_the_others_go_on(self, peer: Peer) -> None:
        await peer.declare("q")
        missing = ["nope", "q", 0, PERSISTENT, b""]
        bad = ["", "q", 0, encode_properties(BasicProperties(expiration="soon")), b""]
        frames = peer.publish(entry("q"), missing, bad, entry("q"))
        assert [frame[:4] for frame in frames] == [[F.REFUSE, 1, [2], 404], [F.REFUSE, 1, [3], 406]]
        assert frames[0][4] == "NOT_FOUND - no exchange 'nope' in vhost '/'"
        assert await peer.durable() == [[F.CONFIRM, 1, [1, 4]]]
        assert peer.house.broker.vhosts["/"].queues["q"].message_count == 2

    async def test_properties_that_cannot_be_read_are_refused(self, peer: Peer) -> None:
        await peer.declare("q")
        [refusal] = peer.publish(["", "q", 0, b"\xff", b""])
        assert refusal[:4] == [F.REFUSE, 1, [1], 502]

    async def test_a_return_comes_before_the_confirm(self, peer: Peer) -> None:
        await peer.declare("q")
        assert peer.publish(entry("q"), entry("nowhere", mandatory=1)) == [
            [F.RETURN, 1, [[2, 312, "NO_ROUTE"]]]
        ]
        assert await peer.durable() == [[F.CONFIRM, 1, [[0, 2]]]]

    async def test_each_of_some_alike_is_returned_by_its_tag(self, peer: Peer) -> None:
        returned = [[tag, 312, "NO_ROUTE"] for tag in (1, 2, 4)]
        frames = peer.publish(
            *[entry("nowhere", mandatory=1)] * 2, entry("nowhere"), entry("nowhere", mandatory=1)
        )
        assert frames == [[F.RETURN, 1, returned]]
        assert await peer.durable() == [[F.CONFIRM, 1, [[0, 4]]]]

    async def test_each_of_some_alike_that_fail_is_refused(self, peer: Peer) -> None:
        await peer.declare("q")
        wrong = ["nope", "q", 0, PERSISTENT, b""]
        frames = peer.publish(wrong, wrong, entry("q"))
        text = "NOT_FOUND - no exchange 'nope' in vhost '/'"
        assert frames == [[F.REFUSE, 1, [1, 2], 404, text]]
        assert await peer.durable() == [[F.CONFIRM, 1, [3]]]

    async def test_a_full_queue_refuses(self, peer: Peer) -> None:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        peer.request(F.QUEUE_DECLARE, "q", False, True, False, False, arguments)
        await peer.durable()
        peer.publish(entry("q"), entry("q"), entry("q"))
        frames = await peer.durable()
        text = "RESOURCE_ERROR - a queue refused the message"
        assert frames == [[F.REFUSE, 1, [2, 3], 506, text], [F.CONFIRM, 1, [1]]]

    async def test_without_confirms_only_what_failed_is_reported(self, house: WholeBroker) -> None:
        peer = Peer(house).open(confirm=False)
        frames = peer.publish(
            ["nope", "q", 0, PERSISTENT, b""], entry("nowhere", mandatory=1), entry("nowhere")
        )
        assert [frame[0] for frame in frames] == [F.RETURN, F.REFUSE]
        assert frames[0][2] == [[2, 312, "NO_ROUTE"]]
        assert await peer.durable() == []

    async def test_a_body_over_the_limit_is_refused_by_its_tag(self, house: WholeBroker) -> None:
        peer = Peer(house, message_max=100).open()
        await peer.declare("q")
        text = "PRECONDITION_FAILED - message size 101 is larger than configured max size 100"
        assert peer.publish(entry("q", bytes(101)), entry("q", bytes(100)), entry("q", bytes(101))) == [
            [F.REFUSE, 1, [1, 3], 406, text]
        ]
        assert await peer.durable() == [[F.CONFIRM, 1, [2]]]
        assert peer.house.broker.vhosts["/"].queues["q"].message_count == 1


class TestConsume:
    async def test_the_reply_comes_first_and_then_one_frame_of_deliveries(self, peer: Peer) -> None:
        await peer.declare("q")
        peer.publish(entry("q", b"1"), entry("q", b"2"))
        await peer.durable()
        peer.request(F.CONSUME, "q", 7, "mine")
        reply, deliver = await peer.durable()
        assert reply[2] == ["mine"]
        assert deliver == [
            F.DELIVER,
            1,
            [[7, 1, 0, "", "q", PERSISTENT, b"1"], [7, 2, 0, "", "q", PERSISTENT, b"2"]],
        ]

    async def test_properties_travel_untouched(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        properties = encode_properties(BasicProperties(headers={"n": 1}, message_id="m"))
        peer.publish(entry("t", properties=properties))
        _, [_, _, [delivery]] = peer.request(F.CONSUME, "t", 1)
        assert delivery[5] == properties

    async def test_credit_is_per_consumer_and_comes_back_with_acks(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.request(F.QOS, 3)
        peer.publish(*(entry("t", b"%d" % number) for number in range(6)))
        _, [_, _, first] = peer.request(F.CONSUME, "t", 1, "", False, False, 2)
        assert [delivery[1] for delivery in first] == [1, 2]
        _, [_, _, second] = peer.request(F.CONSUME, "t", 2)
        assert [(delivery[0], delivery[1]) for delivery in second] == [(2, 3), (2, 4), (2, 5)]
        [[_, _, third]] = peer.send(F.ACK, 0, 1, [1])
        assert [(delivery[0], delivery[1], delivery[6]) for delivery in third] == [(1, 6, b"5")]

    async def test_tags_are_settled_in_every_form(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.publish(*(entry("t", b"%d" % number) for number in range(10)))
        peer.request(F.CONSUME, "t", 1)
        queue = peer.house.broker.vhosts["/"].queues["t"]
        assert queue.unacked_count == 10
        assert peer.request(F.ACK, [9, [3, 5]])[0][0] == F.REPLY
        assert queue.unacked_count == 6
        peer.send(F.ACK, 0, 1, [[0, 7]])
        assert queue.unacked_count == 2
        peer.send(F.NACK, 0, 1, [8], False)
        peer.send(F.REJECT, 0, 1, [10], False)
        assert queue.unacked_count == 0

    async def test_what_is_handed_back_comes_again_as_redelivered(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.publish(entry("t"))
        peer.request(F.CONSUME, "t", 1)
        for tag, type_ in enumerate((F.NACK, F.REJECT), 1):
            [[_, _, [delivery]]] = peer.send(type_, 0, 1, [tag])
            assert delivery[:3] == [1, tag + 1, 1]
        _, [_, _, [delivery]] = peer.request(F.RECOVER)
        assert delivery[:3] == [1, 4, 1]
        [_, _, [delivery]] = peer.send(F.NACK, 0, 1, [[0, 0]])[-1]
        assert delivery[:3] == [1, 5, 1]

    async def test_reject_wants_its_tags_named(self, peer: Peer) -> None:
        assert peer.request(F.REJECT, [[0, 0]])[0][2] == 540

    async def test_an_unknown_tag_is_an_error_after_those_before_it(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.publish(entry("t"), entry("t"))
        peer.request(F.CONSUME, "t", 1)
        [error] = peer.request(F.ACK, [1, 5, 2])
        assert error[2:4] == [406, "PRECONDITION_FAILED - unknown delivery tag 5"]
        assert peer.house.broker.vhosts["/"].queues["t"].unacked_count == 1

    async def test_no_delivery_follows_the_reply_to_cancel(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.request(F.CONSUME, "t", 1)
        peer.protocol.send(F.PUBLISH, 1, 1, [entry("t")])
        peer.session.receive_data(b"".join(peer.protocol.data_to_send()))
        for queue in peer.house.broker.vhosts["/"].queues.values():
            queue.dispatch()
        frames = peer.request(F.CANCEL, 1)
        assert [frame[0] for frame in frames] == [F.DELIVER, F.REPLY]
        assert peer.request(F.CANCEL, 1)[0][0] == F.REPLY
        assert peer.publish(entry("t"), tag=2) == []

    async def test_a_consumer_number_is_used_once_at_a_time(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.request(F.CONSUME, "t", 1)
        assert peer.request(F.CONSUME, "t", 1)[0][2:4] == [530, "NOT_ALLOWED - attempt to reuse consumer 1"]
        peer.request(F.CANCEL, 1)
        assert peer.request(F.CONSUME, "t", 1)[0][0] == F.REPLY

    async def test_a_deleted_queue_ends_its_consumers(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.request(F.CONSUME, "t", 4)
        frames = peer.request(F.QUEUE_DELETE, "t")
        assert [list(frame) for frame in frames] == [[F.CONSUMER_CANCELLED, 1, 4, True], [F.REPLY, 4, [0]]]
        peer.request(F.QUEUE_DECLARE, "t")
        assert peer.request(F.CONSUME, "t", 4)[0][0] == F.REPLY

    async def test_a_large_backlog_comes_in_small_frames_and_turn_by_turn(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        body = bytes(50_000)
        count = 3 * TURN_OUTPUT_MAX_BYTES // len(body)
        for tag in range(1, count + 1):
            peer.publish(entry("t", body, properties=TRANSIENT), tag=tag)
        await peer.durable()
        frames = peer.request(F.CONSUME, "t", 1, "", True)[1:]
        per_frame = [len(frame[2]) for frame in frames]
        assert max(per_frame) == BATCH_BYTES // len(body)
        assert sum(per_frame) == -(
            -TURN_OUTPUT_MAX_BYTES // (len(body) + ENTRY_OVERHEAD_BYTES + len(TRANSIENT))
        )
        received = sum(per_frame)
        while frames := peer.exchange():
            received += sum(len(frame[2]) for frame in frames)
        assert received == count

    async def test_the_largest_message_fits_a_frame_whatever_comes_before_it(
        self, house: WholeBroker
    ) -> None:
        peer = Peer(house, message_max=1000).open()
        peer.request(F.QUEUE_DECLARE, "t")
        properties = encode_properties(BasicProperties(headers={"k": "v" * 131_000}))
        small = [entry("t", bytes(1000)) for _ in range(200)]
        peer.publish(*small)
        peer.publish(entry("t", bytes(1000), properties=properties), tag=201)
        frames = peer.request(F.CONSUME, "t", 1, "", True)[1:]
        assert [frame[0] for frame in frames] == [F.DELIVER] * len(frames)
        assert sum(len(frame[2]) for frame in frames) == 201

    async def test_a_full_socket_gets_nothing_until_it_drains(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.request(F.CONSUME, "t", 1)
        peer.session.set_writable(False)
        assert peer.publish(entry("t")) == []
        peer.session.set_writable(True)
        assert [frame[0] for frame in peer.exchange()] == [F.DELIVER]

    async def test_get(self, peer: Peer) -> None:
        await peer.declare("q")
        assert peer.request(F.GET, "q")[0][2] == [None]
        peer.publish(entry("q", b"1"), entry("q", b"2"))
        await peer.durable()
        assert peer.request(F.GET, "q") == []  # nothing leaves the queue before its delivery mark is durable
        assert peer.request(F.GET, "q", True) == []
        first, second = await peer.durable()
        assert first[2] == [1, 0, "", "q", PERSISTENT, b"1", 1]
        assert second[2] == [2, 0, "", "q", PERSISTENT, b"2", 0]


class TestTheEnd:
    async def test_a_goodbye_comes_after_what_was_done_before(self, peer: Peer) -> None:
        peer.request(F.QUEUE_DECLARE, "t")
        peer.protocol.send(F.PUBLISH, 1, 1, [entry("nowhere", mandatory=1)])
        peer.protocol.close(200, "")
        assert [frame[0] for frame in peer.exchange()] == [F.CLOSED]
        assert peer.session.is_closed
        assert not peer.house.broker.connections

    async def test_the_broker_says_goodbye(self, peer: Peer) -> None:
        peer.session.close(HardError(ReplyCode.CONNECTION_FORCED, "shutdown"))
        assert peer.read() == [[F.CLOSE, 320, "CONNECTION_FORCED - shutdown"]]
        assert not peer.session.is_closed
        peer.protocol.answer_close()
        peer.exchange()
        assert peer.session.is_closed

    async def test_a_client_that_does_not_answer_the_goodbye_is_dropped(self, peer: Peer) -> None:
        peer.session.close(HardError(ReplyCode.CONNECTION_FORCED, "shutdown"))
        peer.session.tick(100.0)
        peer.session.tick(100.0 + CLOSE_TIMEOUT_S - 1)
        assert peer.host.closes_after == []
        peer.session.tick(100.0 + CLOSE_TIMEOUT_S)
        assert peer.host.closes_after == [0]

    async def test_a_lost_connection_gives_everything_back(self, peer: Peer) -> None:
        await peer.declare("q")
        peer.publish(entry("q"))
        peer.request(F.CONSUME, "q", 1)
        await peer.durable()
        queue = peer.house.broker.vhosts["/"].queues["q"]
        assert queue.unacked_count == 1
        peer.request(F.QUEUE_DECLARE, "later", False, True, False, False, {})
        peer.session.connection_lost()
        await peer.house.commit()
        assert (queue.unacked_count, queue.message_count) == (0, 1)
        assert peer.session.take_output() == []

    async def test_a_client_that_just_goes_is_in_the_log(
        self, peer: Peer, caplog: pytest.LogCaptureFixture
    ) -> None:
        peer.session.connection_lost()
        assert "peer -> broker: the client went away without closing the connection" in caplog.text

    async def test_a_connection_that_the_broker_cut_is_not_the_clients_fault(
        self, peer: Peer, caplog: pytest.LogCaptureFixture
    ) -> None:
        peer.host.was_cut = True
        peer.session.connection_lost()
        assert caplog.messages == []

    async def test_a_dead_peer_is_dropped_but_not_one_that_is_not_read(self, peer: Peer) -> None:
        peer.session.tick(1000.0)
        peer.session.tick(1031.0)
        assert peer.session.take_output() != []  # a PING
        peer.session.tick(1059.0)
        assert peer.host.closes_after == []
        peer.session.tick(1060.0)
        assert peer.host.closes_after == [0]

    async def test_a_mistake_of_ours_ends_the_connection_only(
        self, peer: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(peer.house.broker.vhosts["/"], "declare_queue", None)
        [close] = peer.request(F.QUEUE_DECLARE, "t")
        assert close[:2] == [F.CLOSE, 541]
        assert "a frame of type 0x20 failed" in caplog.text


class TestAlarms:
    @pytest.fixture
    def alarmed(self) -> WholeBroker:
        house = WholeBroker(MemoryEngine(), limits=Limits(memory_bytes=1000, disk_free_bytes=0))
        house.broker.alarms.update(1001, 0)
        return house

    async def test_publishers_are_not_read_and_the_others_are(self, alarmed: WholeBroker) -> None:
        publisher, consumer = Peer(alarmed).open(), Peer(alarmed).open()
        consumer.request(F.QUEUE_DECLARE, "q", False, False, False, False, {})
        assert publisher.publish(entry("q", b"had been read")) == [[F.BLOCKED, "low on memory"]]
        assert (publisher.host.holds, consumer.host.holds) == (1, 0)
        [reply] = consumer.request(F.GET, "q", True)
        assert b"had been read" in reply[2]
        alarmed.broker.alarms.update(0, 0)
        assert publisher.host.holds == 0
        assert publisher.read() == [[F.UNBLOCKED]]
        assert consumer.read() == []

    async def test_a_large_publish_blocks_when_it_begins(self, alarmed: WholeBroker) -> None:
        """Or bodies of any size, on any number of connections, would still be collected."""
        peer = Peer(alarmed).open()
        peer.session.receive_data(LENGTH.pack(FRAME_OVERHEAD_BYTES - 100) + b"a list of acks, say")
        assert peer.host.holds == 0
        peer = Peer(alarmed).open()
        peer.session.receive_data(LENGTH.pack(FRAME_OVERHEAD_BYTES + 1) + b"the beginning of a body")
        assert peer.host.holds == 1
        assert peer.read() == [[F.BLOCKED, "low on memory"]]

    async def test_a_blocked_peer_is_not_blamed_for_its_silence(self, alarmed: WholeBroker) -> None:
        peer = Peer(alarmed).open()
        peer.publish(entry("nowhere"))
        for now_s in (1000.0, 1100.0, 1200.0):
            peer.session.tick(now_s)
        assert peer.host.closes_after == []
        alarmed.broker.alarms.update(0, 0)
        peer.session.tick(1259.0)
        assert peer.host.closes_after == []
        peer.session.tick(1260.0)
        assert peer.host.closes_after == [0]

    async def test_a_blocked_connection_that_ends_waits_for_nothing(self, alarmed: WholeBroker) -> None:
        lost, closed = Peer(alarmed).open(), Peer(alarmed).open()
        for peer in (lost, closed):
            peer.publish(entry("nowhere"))
        lost.session.connection_lost()
        closed.session.close(HardError(ReplyCode.CONNECTION_FORCED, "shutdown"))
        assert closed.host.holds == 0  # its CLOSED must be read
        alarmed.broker.alarms.update(0, 0)
        assert (lost.host.holds, closed.host.holds) == (1, 0)
