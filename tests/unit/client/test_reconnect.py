"""How a connection comes back: attempts, hosts, and what it raises when it does not."""

import asyncio
import time
from collections import deque

import pytest
from fake_native_server import FakeNativeServer
from reconnects import Gate, lose, lose_and_restore, turns

import leveret
from leveret import AuthenticationFailed, ConnectionLost, LeveretError, Message, NotAllowed, Reconnect
from leveret.client.address import parse_url
from leveret.client.connection import Connector, Settings
from leveret.client.reconnect import keep_trying
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.reply_codes import ReplyCode

REFUSED = ConnectionRefusedError(111, "Connection refused")


@pytest.fixture
async def gate() -> Gate:
    return Gate()


class TestPolicy:
    def test_delays_grow_up_to_the_highest(self) -> None:
        policy = Reconnect(first_delay_s=1, factor=2, max_delay_s=5, jitter=0, attempts=5)
        assert list(policy.delays()) == [1, 2, 4, 5, 5]

    def test_jitter_is_the_share_that_is_left_to_chance(self) -> None:
        chances = iter([0.0, 0.5, 1.0])
        policy = Reconnect(first_delay_s=8, factor=1, jitter=0.5, attempts=3, chance=lambda: next(chances))
        assert list(policy.delays()) == [8, 6, 4]

    def test_without_attempts_there_is_no_end(self) -> None:
        delays = Reconnect(jitter=0).delays()
        assert [next(delays) for _ in range(1000)][-1] == 30.0

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"first_delay_s": -1}, "first_delay_s"),
            ({"first_delay_s": 31}, "not over max_delay_s"),
            ({"factor": 0.5}, "factor must be at least 1, not 0.5"),
            ({"jitter": 2}, "jitter is a share"),
            ({"attempts": 0}, "reconnect=False is for none"),
        ],
    )
    def test_nonsense_is_refused(self, options: dict[str, float], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            Reconnect(**options)  # type: ignore[arg-type]  # numbers of both kinds

    async def test_attempts_end_with_the_last_reason(self, gate: Gate) -> None:
        async def fail() -> None:
            raise ConnectionLost(f"failure {len(gate.delays)}")

        with pytest.raises(ConnectionLost, match="given up after 3 attempts: failure 3"):
            await keep_trying(fail, gate.policy(attempts=3), "lost")
        assert gate.delays == [0.1, 0.2, 0.4]

    async def test_a_refused_login_ends_it_at_once(self, gate: Gate) -> None:
        async def fail() -> None:
            raise AuthenticationFailed("no")

        with pytest.raises(AuthenticationFailed):
            await keep_trying(fail, gate.policy(), "lost")
        assert len(gate.delays) == 1


class TestTheFirstConnect:
    async def test_fails_at_once(self, server: FakeNativeServer, gate: Gate) -> None:
        server.refusals = deque([REFUSED])
        with pytest.raises(ConnectionLost, match="refused"):
            await server.connect(reconnect=gate.policy())
        assert gate.delays == []

    async def test_or_is_tried_again_if_it_is_told_so(self, server: FakeNativeServer, gate: Gate) -> None:
        server.refusals = deque([REFUSED] * 3)
        connection = await server.connect(reconnect=gate.policy(from_start=True))
        assert connection.is_connected
        assert len(gate.delays) == 3
        await connection.close()

    async def test_a_refused_login_raises_whatever_it_is_told(self, gate: Gate) -> None:
        with pytest.raises(AuthenticationFailed):
            await FakeNativeServer(password="other").connect(reconnect=gate.policy(from_start=True))
        assert gate.delays == []


class TestHosts:
    async def test_are_tried_in_turn(self, gate: Gate) -> None:
        tried: list[str] = []
        server = FakeNativeServer()

        async def dial(make, address, ssl) -> None:  # type: ignore[no-untyped-def]
            tried.append(address.host)
            if address.host in down:
                raise REFUSED
            await server.dial(make, address, ssl)

        settings = Settings(0, 5.0, None, None, gate.policy(), dial)
        down = {"a"}
        async with Connector(parse_url("leveret://a,b,c/"), settings) as connection:
            assert str(connection.address) == "b:5672"
            await lose_and_restore(server, connection)  # b again, if it can be had
            down.add("b")
            await lose_and_restore(server, connection)
            assert tried == ["a", "b", "b", "b", "c"]
            down.update("abc")
            gate.close()
            await lose(server, connection)
            gate.delays.clear()
            gate.open()
            await turns(20)
            assert tried[5:8] == ["c", "a", "b"]
            assert len(gate.delays) >= 1

    async def test_all_that_failed_are_named(self, gate: Gate) -> None:
        server = FakeNativeServer(refusals=deque([REFUSED, REFUSED]))
        with pytest.raises(ConnectionLost, match=r"cannot connect to a:5672.*; cannot connect to b:1:"):
            await server.connect("leveret://a,b:1/", reconnect=gate.policy())

    async def test_a_single_refusal_stays_what_it_is(self, server: FakeNativeServer) -> None:
        server._log_in = lambda hello: server.protocol.close(  # type: ignore[method-assign]  # it has no vhost
            ReplyCode.NOT_ALLOWED, "NOT_ALLOWED - vhost / not found"
        )
        with pytest.raises(NotAllowed):
            await server.connect()


class TestReconnecting:
    async def test_goes_on_until_it_succeeds(self, server: FakeNativeServer, gate: Gate) -> None:
        async with server.connect(reconnect=gate.policy()) as connection:
            server.refusals = deque([REFUSED] * 4)
            await lose_and_restore(server, connection)
            assert gate.delays == [0.1, 0.2, 0.4, 0.8, 1.6]

    async def test_begins_anew_but_not_for_a_connection_that_breaks_again_and_again(
        self, server: FakeNativeServer, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with server.connect(reconnect=gate.policy(max_delay_s=0.5)) as connection:
            for _ in range(5):
                await lose_and_restore(server, connection)
            assert gate.delays == [0.1, 0.2, 0.4, 0.5, 0.5]
            monkeypatch.setattr("leveret.client.connection.SHORT_LIFE_S", 0.0)
            gate.delays.clear()
            for _ in range(2):
                await lose_and_restore(server, connection)
            assert gate.delays == [0.1, 0.1]

    async def test_says_so(self, server: FakeNativeServer, gate: Gate) -> None:
        async with server.connect(reconnect=gate.policy()) as connection:
            events: list[str] = []
            connection.on_lost(lambda error: events.append(f"lost: {error}"))
            connection.on_restored(lambda: events.append("restored"))
            gate.close()
            await lose(server, connection)
            assert (connection.is_connected, connection.is_closed) == (False, False)
            assert repr(connection) == "<Connection to fake:5672, reconnecting>"
            gate.open()
            await connection.wait_connected()
            await turns()
            assert connection.is_connected
            assert events == ["lost: the connection broke: end of stream", "restored"]

    async def test_a_callback_that_fails_does_no_harm(
        self, server: FakeNativeServer, gate: Gate, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with server.connect(reconnect=gate.policy()) as connection:
            connection.on_restored(lambda: 1 / 0)
            await lose_and_restore(server, connection)
            await turns()
            assert "a callback of the connection failed" in caplog.text
            assert connection.is_connected

    async def test_a_refused_login_ends_the_connection(self, server: FakeNativeServer, gate: Gate) -> None:
        connection = await server.connect(reconnect=gate.policy())
        channel = await connection.channel()
        gate.close()
        await lose(server, connection)
        waiting = [
            asyncio.create_task(channel.publish(Message(b""), "q")),
            asyncio.create_task(channel.declare_queue("q")),
            asyncio.create_task(connection.wait_connected()),
        ]
        await turns()
        server.password = "changed"
        gate.open()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionLost] * 3
        assert "does not accept the login any more" in str(outcomes[0])
        assert len(gate.delays) == 1
        assert connection.is_closed
        with pytest.raises(ConnectionLost) as caught:
            await connection.channel()
        assert isinstance(caught.value.__cause__, AuthenticationFailed)
        await connection.close()

    async def test_is_given_up_when_it_is_told_so(self, server: FakeNativeServer, gate: Gate) -> None:
        connection = await server.connect(reconnect=gate.policy(attempts=2))
        channel = await connection.channel()
        server.refusals = deque([REFUSED] * 9)
        gate.close()
        await lose(server, connection)
        publish = asyncio.create_task(channel.publish(Message(b"x"), "q"))
        gate.open()
        with pytest.raises(ConnectionLost, match="given up after 2 attempts: cannot connect") as caught:
            await publish
        assert caught.value.message is not None
        assert caught.value.message.body == b"x"
        assert connection.is_closed

    async def test_reconnect_false_ends_with_the_link(self, server: FakeNativeServer) -> None:
        connection = await server.connect(reconnect=None)
        lost: list[LeveretError] = []
        connection.on_lost(lost.append)
        server.lose()
        await turns()
        assert connection.is_closed
        assert [str(error) for error in lost] == ["the connection broke: end of stream"]
        assert server.of_type(FrameType.CHANNEL_OPEN) == []

    async def test_a_link_that_breaks_while_all_is_restored_is_one_more_attempt(
        self, server: FakeNativeServer, gate: Gate
    ) -> None:
        async with server.connect(reconnect=gate.policy()) as connection:
            channel = await connection.channel()
            await channel.declare_queue("q")
            server.silent.add(FrameType.QUEUE_DECLARE)
            await lose(server, connection)
            await turns(20)
            assert not connection.is_connected
            server.lose()
            server.silent.clear()
            await connection.wait_connected()
            assert len(gate.delays) == 2
            await channel.publish(Message(b""), "q")

    async def test_the_wall_clock_plays_no_part(
        self, server: FakeNativeServer, gate: Gate, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now_s = time.time()
        async with server.connect(reconnect=gate.policy(), heartbeat_s=60) as connection:
            channel = await connection.channel()
            await channel.declare_queue("q")
            for jump_s in (1e6, -1e6):
                monkeypatch.setattr("time.time", lambda jump_s=jump_s: now_s + jump_s)
                connection.link.transport._tick()
                await channel.publish(Message(b""), "q", timeout_s=5)
                await lose_and_restore(server, connection)
            assert len(gate.delays) == 2


class TestClosing:
    async def test_while_reconnecting_is_done_at_once(self, server: FakeNativeServer, gate: Gate) -> None:
        connection = await server.connect(reconnect=gate.policy())
        channel = await connection.channel()
        gate.close()
        await lose(server, connection)
        publish = asyncio.create_task(channel.publish(Message(b""), "q"))
        await turns()
        await connection.close()
        with pytest.raises(ConnectionLost, match="the connection was closed"):
            await publish
        gate.open()
        await turns(20)
        assert server.lives == 1
        await connection.close()

    async def test_while_all_is_restored(self, server: FakeNativeServer, gate: Gate) -> None:
        connection = await server.connect(reconnect=gate.policy())
        channel = await connection.channel()
        await channel.declare_queue("q")
        server.silent.add(FrameType.QUEUE_DECLARE)
        await lose(server, connection)
        await turns(20)
        await connection.close()
        assert connection.is_closed
        assert server.socket is not None
        assert server.socket.is_closing()

    async def test_the_end_of_the_loop_ends_it(self, server: FakeNativeServer, gate: Gate) -> None:
        connection = await server.connect(reconnect=gate.policy())
        gate.close()
        await lose(server, connection)
        assert connection._reconnecting is not None
        connection._reconnecting.cancel()  # as asyncio.run does at its end
        await turns()
        with pytest.raises(ConnectionLost, match="reconnecting was cancelled"):
            await connection.wait_connected()


def test_connect_takes_options_from_the_url_and_arguments_go_before_them() -> None:
    def settings(*arguments: str, **options: object) -> Settings:
        return leveret.connect(*arguments, **options)._settings  # type: ignore[arg-type]  # of several types

    url = "leveret://host/?heartbeat_s=5&timeout_s=2&name=n&reconnect=no"
    assert settings(url) == Settings(5, 2.0, "n", None, None)
    policy = Reconnect(attempts=1)
    changed = settings(url, heartbeat_s=0, timeout_s=1.0, name="m", reconnect=policy)
    assert changed == Settings(0, 1.0, "m", None, policy)
    assert settings("leveret://host").reconnect == Reconnect()
    assert settings("leveret://host", reconnect=False).reconnect is None
