"""A native session on a real domain, without sockets: `Peer` is a client at the other end of one."""

from typing import Any

from whole_broker import PERSISTENT, WholeBroker

from leveret.broker.auth import Authenticator, User, hash_password
from leveret.broker.sessions.native_session import NativeSession
from leveret.broker.sessions.session import SessionSettings
from leveret.protocol.native.connection import ClientConnection, State
from leveret.protocol.native.layouts import FrameType

F = FrameType


class FakeHost:
    """The transport: notes what the session asks of it."""

    name = "peer -> broker"
    was_cut = False

    def __init__(self, *, peer_is_loopback: bool = True) -> None:
        self.peer_is_loopback = peer_is_loopback
        self.wants_flush = False
        self.holds = 0
        self.closes_after: list[float] = []

    @property
    def is_reading(self) -> bool:
        return not self.holds

    def request_flush(self) -> None:
        self.wants_flush = True

    def pause_input(self) -> None:
        self.holds += 1

    def resume_input(self) -> None:
        self.holds -= 1

    def close_after(self, delay_s: float) -> None:
        self.closes_after.append(delay_s)


class Peer:
    """A client at the other end of one session."""

    def __init__(
        self, house: WholeBroker, *, message_max: int = 1 << 20, peer_is_loopback: bool = True
    ) -> None:
        user = User("guest", hash_password("guest", b"salt"))
        settings = SessionSettings(
            broker=house.broker,
            authenticator=Authenticator([user], ["guest"]),
            frame_max_bytes=131_072,
            channel_max=10,
            heartbeat_s=60,
            message_size_max_bytes=message_max,
            product="leveret",
            version="1",
        )
        self.house = house
        self.host = FakeHost(peer_is_loopback=peer_is_loopback)
        self.session = NativeSession(settings, self.host)
        self.protocol = ClientConnection()
        self._request = 0

    def log_in(self, password: str = "guest", vhost: str = "/", **properties: str) -> list[Any]:
        self.protocol.hello("guest", password, vhost, heartbeat_s=60, frame_max=0, properties=properties)
        return self.exchange()

    def open(self, channel: int = 1, *, confirm: bool = True) -> "Peer":
        """Log in if need be, and open a channel."""
        if self.protocol.state is State.HELLO:
            self.log_in()
        assert self.request(F.CHANNEL_OPEN, confirm, channel=channel) == [[F.REPLY, self._request, []]]
        return self

    async def produce(
        self, producer: bytes, channel: int = 1, *, last_tag: int = 0, opening: int = 0
    ) -> "Peer":
        """Log in if need be, and open a channel for a producer, of which the broker knows so much."""
        if self.protocol.state is State.HELLO:
            self.log_in()
        reply = [F.REPLY, self._request + 1, [last_tag]]
        assert reply not in self.request(F.CHANNEL_OPEN, True, producer, opening, channel=channel)
        assert reply in await self.durable()
        return self

    def send(self, type_: FrameType, *fields: Any) -> list[Any]:
        """Send a frame; the answers of the same turn."""
        self.protocol.send(type_, *fields)
        return self.exchange()

    def request(self, type_: FrameType, *fields: Any, channel: int = 1) -> list[Any]:
        self._request += 1
        return self.send(type_, self._request, channel, *fields)

    def publish(self, *entries: list[Any], tag: int = 1, channel: int = 1) -> list[Any]:
        return self.send(F.PUBLISH, channel, tag, list(entries))

    def exchange(self) -> list[Any]:
        """Bring what was sent to the session, end the turn, and take what it says."""
        data = b"".join(self.protocol.data_to_send())
        if data:
            self.session.receive_data(data)
        self.house.end_turn()
        return self.read()

    def read(self) -> list[Any]:
        assert self.host.wants_flush or not self.protocol.out
        self.host.wants_flush = False
        return [list(event) for event in self.protocol.receive_data(b"".join(self.session.take_output()))]

    async def durable(self) -> list[Any]:
        """Commit what is pending; what the session says then."""
        await self.house.commit()
        return self.exchange()

    async def declare(self, queue: str, *, durable: bool = True) -> None:
        self.request(F.QUEUE_DECLARE, queue, False, durable, False, False, {})
        await self.durable()


def entry(
    routing_key: str, body: bytes = b"x", *, mandatory: int = 0, properties: bytes = PERSISTENT
) -> list[Any]:
    return ["", routing_key, mandatory, properties, body]
