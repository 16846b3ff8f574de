"""An AMQP session on a real domain, without sockets and disk: `House.commit` is the group commit."""

from collections.abc import Callable

from amqp_peer import FRAME_MAX, Answer, answers, tune_ok, vhost_open
from fake_services import FakeClock, FakeTimers

from leveret.broker.alarms import NO_LIMITS, Limits
from leveret.broker.auth import Authenticator, User, hash_password
from leveret.broker.broker import Broker
from leveret.broker.durability.journal import Journal
from leveret.broker.sessions.amqp_session import AmqpSession
from leveret.broker.sessions.session import SessionSettings
from leveret.protocol.amqp import methods
from leveret.protocol.amqp.connection import PROTOCOL_HEADER
from leveret.protocol.amqp.field_table import FieldTable
from leveret.protocol.amqp.frames import method_frame
from leveret.protocol.amqp.wire_types import Method
from leveret.storage.memory_spill import MemorySpill

MESSAGE_SIZE_MAX = 4 << 20


class FakeHost:
    """The transport: notes what the session asks for."""

    name = "peer -> broker"
    was_cut = False
    peer_is_loopback = True

    def __init__(self) -> None:
        self.flushes = 0
        self.holds = 0
        self.closes_after_s: list[float] = []

    @property
    def is_reading(self) -> bool:
        return not self.holds

    def request_flush(self) -> None:
        self.flushes += 1

    def pause_input(self) -> None:
        self.holds += 1

    def resume_input(self) -> None:
        self.holds -= 1

    def close_after(self, delay_s: float) -> None:
        self.closes_after_s.append(delay_s)


class House:
    """A broker; `scheduled` is the end of the loop's turn."""

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        clock = FakeClock()
        self.scheduled: list[Callable[[], None]] = []
        self._next_position = 1  # of a blob, if anything were written
        self.broker = Broker(
            clock=clock,
            timers=FakeTimers(clock),
            journal=Journal(1 << 20),
            spill=MemorySpill(),
            schedule=self.scheduled.append,
            kick_committer=lambda: None,
            limits=limits,
        )
        self.settings = SessionSettings(
            broker=self.broker,
            authenticator=Authenticator([User("guest", hash_password("guest"))], []),
            frame_max_bytes=FRAME_MAX,
            channel_max=2047,
            heartbeat_s=60,
            message_size_max_bytes=MESSAGE_SIZE_MAX,
            product="RabbitMQ",
            version="3.13.7",
        )

    def end_turn(self) -> None:
        while self.scheduled:
            self.scheduled.pop(0)()

    def commit(self) -> None:
        """What is pending becomes durable."""
        self.end_turn()
        batch = self.broker.journal.take(self._next_position, dict)
        self._next_position += len(batch.payloads)
        batch.committed()
        self.end_turn()


class Peer:
    """A client on a session of its own."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.host = FakeHost()
        self.session = AmqpSession(house.settings, self.host)

    def connect(self, *channels: int, capabilities: FieldTable | None = None) -> "Peer":
        """Log in and open channels."""
        self.send(PROTOCOL_HEADER)
        properties: FieldTable = {"capabilities": {} if capabilities is None else capabilities}
        self.ask(0, methods.ConnectionStartOk(client_properties=properties, response=b"\0guest\0guest"))
        self.send(tune_ok() + vhost_open())
        for channel in channels:
            self.ask(channel, methods.ChannelOpen())
        self.said()
        return self

    @classmethod
    def with_queue(cls, house: House) -> "Peer":
        """Logged in, with channels 1 and 2 and the transient queue `q`."""
        peer = cls(house).connect(1, 2)
        peer.ask(1, methods.QueueDeclare(queue="q"))
        return peer

    def send(self, data: bytes) -> list[Answer]:
        """Bytes from the peer; returns what the session says to them."""
        assert self.host.holds == 0
        self.session.receive_data(data)
        return self.said()

    def ask(self, channel: int, *wanted: Method) -> list[Answer]:
        return self.send(b"".join(method_frame(channel, method) for method in wanted))

    def said(self) -> list[Answer]:
        """What the session wants to be written."""
        return answers(self.session.take_output())


def close_of(channel: int, code: int, text: str, ids: tuple[int, int]) -> Answer:
    """channel.close, or on channel 0 connection.close."""
    cls = methods.ChannelClose if channel else methods.ConnectionClose
    return channel, cls(reply_code=code, reply_text=text, class_id=ids[0], method_id=ids[1])
