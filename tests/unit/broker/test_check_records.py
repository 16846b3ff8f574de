"""What the checker says about blobs and checkpoints whose bytes are in order, but do not fit together."""

import re
from pathlib import Path

import pytest
from cold_messages import queue_of
from native_house import Peer, entry
from stored_log import StoredLog
from whole_broker import WholeBroker

from leveret.broker import cli
from leveret.broker.durability import cleaner, records
from leveret.broker.durability.records import RecordType
from leveret.protocol.amqp.properties import BasicProperties, encode_properties
from leveret.storage.blob import RECORD_HEADER_BYTES
from leveret.storage.engine import Position
from leveret.storage.lmdb import LmdbEngine
from leveret.storage.memory import MemoryEngine

GROUP = 0
LARGE = bytes(range(256)) * 4096


def at(position: int, complaint: str) -> str:
    """A finding."""
    return f"group 0, position {position}: {complaint}"


@pytest.fixture
async def engine() -> MemoryEngine:
    engine = MemoryEngine()
    await engine.open()
    return engine


@pytest.fixture
async def log(engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch) -> StoredLog:
    """A log with every kind of record, and large messages on either side of its checkpoint."""
    monkeypatch.setattr(cleaner, "SLACK_BYTES", 0)
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("a")
    client.declare("b", x_max_priority=5)
    for queue in ("a", "b"):
        client.channel.queue_bind(queue, "amq.fanout", "", {})
    for number in range(40):
        properties = encode_properties(BasicProperties(delivery_mode=2, priority=number % 7))
        client.channel.publish("amq.fanout", "", False, False, properties, [b"%d" % number * 100])
    await broker.commit()
    for queue in ("a", "b"):
        for _ in range(35):
            client.channel.get(queue, no_ack=True)
    await broker.stop()  # writes a checkpoint, moves what is left of the first blob

    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.publish("a", LARGE)
    await broker.stop()

    broker = await WholeBroker(engine, checkpoint_every_bytes=1 << 30).start()
    client = broker.client()
    client.declare("purged")
    client.publish("purged", b"x", b"y")
    client.publish("a", LARGE + b"!")
    await broker.commit()
    for lane in queue_of(broker, "purged").lanes:
        lane.let_go(0)
    client.channel.queue_purge("purged")
    client.publish("purged", b"left")
    client.get("a")
    client.get("b")
    client.channel.nack(1, multiple=False, requeue=True)
    client.channel.ack(2, multiple=False)
    (await Peer(broker).produce(b"me")).publish(entry("a"))
    await broker.commit()
    return await StoredLog.of(engine)


def test_a_log_of_everything_is_sound(log: StoredLog) -> None:
    assert log.findings() == []
    kinds = {kind for position in log.blobs for kind, _ in log.records(position)}
    assert kinds == set(RecordType)
    assert log.first(RecordType.MOVED) < log.first(RecordType.LARGE) <= log.checkpoint_position
    assert log.checkpoint_position < log.last(RecordType.LARGE) < log.last(RecordType.PURGE)


@pytest.mark.parametrize("kind", sorted(set(RecordType) - {RecordType.PART}))
def test_a_record_that_is_cut_off_is_found(log: StoredLog, kind: RecordType) -> None:
    position = log.last(kind)
    some = log.records(position)
    number = max(number for number, (found, _) in enumerate(some) if found == kind)
    some[number] = (kind, some[number][1][:3])
    log.put(position, some)
    assert log.findings()[0].startswith(at(position, "the record at byte "))


def test_an_unknown_record_below_the_checkpoint_is_found(log: StoredLog) -> None:
    position = log.first(RecordType.MOVED)
    size = sum(5 + len(record) for _, record in log.records(position))
    log.put(position, [*log.records(position), (2, b"")])
    complaint = (
        f"the record at byte {size + 5} of the payload cannot be read: ValueError('unknown record type 2')"
    )
    assert log.findings() == [at(position, complaint)]


def test_an_unknown_record_after_the_checkpoint_is_found_once(log: StoredLog) -> None:
    position = max(log.blobs)
    log.put(position, [(99, b""), *log.records(position)])
    complaint = "the record at byte 5 of the payload cannot be applied: ValueError('unknown record type 99')"
    assert log.findings() == [at(position, complaint)]


def test_a_change_of_topology_that_cannot_be_applied_is_found(log: StoredLog) -> None:
    position = log.last(RecordType.TOPOLOGY)
    change = {"op": "bind", "vhost": "/", "source": "absent", "to_queue": True, "destination": "a", "key": ""}
    log.put(position, [*log.records(position), (RecordType.TOPOLOGY, records.pack_map(change))])
    (finding,) = log.findings()
    assert finding.startswith(at(position, "the record at byte "))
    assert "cannot be applied" in finding


def test_a_message_that_is_not_there_but_was_acked_is_nobodys(log: StoredLog) -> None:
    position = log.first(RecordType.MOVED)
    log.put(position, log.records(position)[1:])
    assert log.findings() == []


@pytest.mark.parametrize("left_out", range(1, 9))
def test_a_message_that_is_not_there_is_found_for_each_of_its_queues(log: StoredLog, left_out: int) -> None:
    position = log.first(RecordType.MOVED)
    some = log.records(position)
    queues = {1: "a", 2: "b"}
    names = [queues[queue_id] for queue_id in records.unpack_publish(some[left_out][1]).queue_ids]
    log.put(position, some[:left_out] + some[left_out + 1 :])
    pattern = at(position, r"(\d+) messages of queue '(.)' in vhost '/' must be there, .*, but (\d+) are")
    matches = [re.fullmatch(pattern, finding) for finding in log.findings()]
    assert [match[2] for match in matches if match and int(match[1]) == int(match[3]) + 1] == names
    assert len(matches) == len(names)


def test_a_message_that_is_there_twice_is_found(log: StoredLog) -> None:
    position = log.first(RecordType.MOVED)
    log.put(position, [*log.records(position), log.records(position)[-1]])
    assert all(re.search(r"must be there, .*, but \d+ are$", finding) for finding in log.findings())
    assert log.findings()


def test_a_body_of_another_length_is_found(log: StoredLog) -> None:
    position = log.last(RecordType.PUBLISH)
    (kind, record), *others = log.records(position)
    log.put(position, [(kind, record + b"!"), *others])
    # The tail is applied as it is, so only what a checkpoint has counted can be wrong.
    assert log.findings() == []
    position = log.first(RecordType.MOVED)
    *others, (kind, record) = log.records(position)
    log.put(position, [*others, (kind, record + b"!")])
    findings = log.findings()
    assert findings
    assert all(re.search(r"counts \d+ bytes of bodies, but its messages have \d+$", one) for one in findings)


def test_a_missing_blob_is_found(log: StoredLog) -> None:
    position = log.first(RecordType.MOVED)
    del log.blobs[position]
    findings = log.findings()
    pattern = (
        r"group 0, position 3: the blob, which holds \d+ messages of queue '[ab]' in vhost '/', is missing"
    )
    assert findings
    assert all(re.fullmatch(pattern, finding) for finding in findings)


@pytest.mark.parametrize("kind", [RecordType.MOVED, RecordType.PART, RecordType.LARGE])
def test_what_is_said_of_a_damaged_blob_is_not_said_twice(log: StoredLog, kind: RecordType) -> None:
    log.blobs[log.first(kind)] = None
    assert log.findings() == []


def test_a_missing_part_is_found(log: StoredLog) -> None:
    part, large = log.first(RecordType.PART) + 1, log.first(RecordType.LARGE)
    del log.blobs[part]
    assert log.findings() == [at(large, f"the part at position {part} of its large message is missing")]


def test_a_part_that_is_none_is_found(log: StoredLog) -> None:
    part, large = log.first(RecordType.PART), log.first(RecordType.LARGE)
    log.put(part, [])
    assert log.findings() == [at(large, f"the part at position {part} of its large message is missing")]


def test_a_part_of_another_size_is_found(log: StoredLog) -> None:
    part, large = log.last(RecordType.PART), log.last(RecordType.LARGE)
    ((kind, record),) = log.records(part)
    log.put(part, [(kind, record + b"?")])
    size = len(LARGE) + 1
    assert log.findings() == [
        at(large, f"the parts of its large message have {size + 1} bytes instead of {size}")
    ]


def test_parts_that_the_checkpoint_does_not_name_are_found(log: StoredLog) -> None:
    large = log.first(RecordType.LARGE)
    log.change_checkpoint(lambda checkpoint: checkpoint.parts.clear())
    assert log.findings() == [at(large, "the checkpoint names other parts of its large message than it does")]


def test_a_checkpoint_that_is_none_is_found(log: StoredLog) -> None:
    log.checkpoint = b"nonsense"
    (finding,) = log.findings()
    assert finding.startswith(at(log.checkpoint_position, "the checkpoint cannot be read: "))


def test_a_checkpoint_of_another_position_is_found(log: StoredLog) -> None:
    position = log.checkpoint_position
    log.change_checkpoint(lambda checkpoint: setattr(checkpoint, "position", position - 1))
    complaint = f"the checkpoint says that it is of position {position - 1}"
    assert log.findings() == [at(position, complaint)]


def test_a_checkpoint_without_its_queues_is_found(log: StoredLog) -> None:
    log.change_checkpoint(lambda checkpoint: checkpoint.topology.clear())
    complaint = "the checkpoint names messages of queue number 1, which its topology lacks"
    assert log.findings() == [at(log.checkpoint_position, complaint)]


def test_a_checkpoint_with_a_change_of_topology_that_means_nothing_is_found(log: StoredLog) -> None:
    log.change_checkpoint(lambda checkpoint: checkpoint.topology.append(records.pack_map({"op": "brew"})))
    complaint = "the checkpoint cannot be applied: KeyError('vhost')"
    assert log.findings() == [at(log.checkpoint_position, complaint)]


def test_a_checkpoint_of_another_log_is_found(log: StoredLog) -> None:
    log.change_checkpoint(lambda checkpoint: setattr(checkpoint, "chain_hash", bytes(16)))
    assert log.findings() == [
        at(log.checkpoint_position + 1, "it does not continue the blob that the checkpoint ends with")
    ]


def test_records_are_read_also_when_nobody_knows_what_queues_hold(log: StoredLog) -> None:
    log.checkpoint = None  # it was damaged
    log.put(log.first(RecordType.MOVED), [(99, b"")])
    (finding,) = log.findings()
    assert "unknown record type 99" in finding


async def test_a_log_without_a_checkpoint_is_folded_from_its_beginning(engine: MemoryEngine) -> None:
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q")
    client.publish("q", b"1", b"2")
    await broker.commit()
    log = await StoredLog.of(engine)
    assert log.checkpoint is None
    assert log.findings() == []
    log.put(1, log.records(1)[1:])  # without the declare: messages of queues that are gone are nobody's
    assert log.findings() == []


async def test_the_command_says_what_is_missing_from_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = LmdbEngine(tmp_path, map_bytes=2**30)
    await engine.open()
    broker = await WholeBroker(engine).start()
    client = broker.client()
    client.declare("q")
    for body in (b"1", b"2", LARGE):
        client.publish("q", body)
        await broker.commit()
    await broker.stop()
    client = (broker := await WholeBroker(engine).start()).client()
    client.publish("q", b"after the checkpoint")
    await broker.commit()
    await engine.close()
    assert cli.run(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("sound: ")

    await engine.open()
    lease = await engine.acquire(GROUP, "vandal")
    await engine.drop(GROUP, lease.epoch, [Position(2), Position(4)])
    await engine.close()
    assert cli.run(["check", str(tmp_path)]) == 2
    large = 3 + -(-len(LARGE) // (engine.caps.blob_max_bytes - RECORD_HEADER_BYTES))
    assert capsys.readouterr().out.splitlines() == [
        at(2, "the blob, which holds 1 messages of queue 'q' in vhost '/', is missing"),
        at(large, "the part at position 4 of its large message is missing"),
    ]
