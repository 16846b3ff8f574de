"""Plays a script on a broker and writes down everything that its clients could see.

After each step it waits until the broker has come to rest: round trips on every channel and through every
queue, until two rounds in a row showed nothing new. What one step causes on different channels, or from
different queues on one channel, comes in an order that is left to chance: it is sorted. Everything else is
noted as it came.

The number of connections and channels is small and fixed; those that a step needs are opened when it comes.
A player cleans up after a script and can then play the next.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

from leveret.protocol.amqp import methods as m
from leveret.protocol.amqp.properties import encode_properties
from leveret.protocol.amqp.wire_types import METHODS, Method

from .link import Link, LinkEnded, Received
from .observation import Lines, Names, Observation, show_content, show_method
from .script import CloseConnection, Publish, Script, Settle, SettleTag, Step, Wait

SHORT_TTL_MS = 20
"""What a script may use for messages that are to expire while it is played, if it sleeps."""

QUEUES = ("q1", "q2", "q3")
EXCHANGES = ("x1", "x2", "x3")

CONTROL = 9  # the channel of each connection that only the player uses
OBSERVER = 2  # the connection that only the player uses
CAPABILITIES: tuple[dict[str, bool], ...] = (
    {"consumer_cancel_notify": True, "basic.nack": True, "publisher_confirms": True},
    {},
    {},
)
ROUNDS_MAX = 50
EXPIRY_S = 5 * SHORT_TTL_MS / 1000  # a message may die from queue to queue
DROP_S = 0.1  # until a broker noticed that a socket is gone

_NO_ANSWER = (m.BasicAck, m.BasicNack, m.BasicReject, m.BasicRecoverAsync, m.BasicCancelOk)
_MAY_BRING_MESSAGES = (
    Publish,
    Settle,
    SettleTag,
    CloseConnection,
    m.ChannelClose,
    m.BasicRecover,
    m.BasicRecoverAsync,
    m.TxCommit,
)
_UNUSUAL_ANSWERS: dict[type[Method], tuple[type[Method], ...]] = {
    m.BasicGet: (m.BasicGetOk, m.BasicGetEmpty),
    m.ExchangeUnbind: (m.ExchangeUnbindOk,),
}
_SETTLEMENTS: dict[str, Callable[[int, bool, bool], Method]] = {
    "ack": lambda tag, multiple, _: m.BasicAck(delivery_tag=tag, multiple=multiple),
    "nack": lambda tag, multiple, requeue: m.BasicNack(delivery_tag=tag, multiple=multiple, requeue=requeue),
    "reject": lambda tag, _, requeue: m.BasicReject(delivery_tag=tag, requeue=requeue),
}


class _Channel:
    """What the player knows of an open channel."""

    def __init__(self) -> None:
        self.outstanding: list[tuple[int, str, int]] = []  # (step, how it looks, delivery tag)
        self.silent_tags: set[str] = set()  # consumers that do not ack
        self.publishes: int | None = None  # None: does not confirm
        self.unconfirmed: set[int] = set()
        self.is_asked = False  # a channel.flow waits for its answer


class _Connection:
    """A link and its open channels."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.channels: dict[int, _Channel] = {}


Place = tuple[int, int]  # connection, channel


class Player:
    """See the module's docstring. `close` it in the end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: dict[int, _Connection] = {}
        self._step = 0
        self._begin()

    def play(self, script: Script) -> list[Observation]:
        """What each step showed, up to the first in which something is left to chance."""
        self._begin()
        played: list[Observation] = []
        try:
            for number, step in enumerate(script.steps):
                played.append(self._play_step(number, step, script.sleeps))
                if played[-1].rest is None:
                    break
        finally:
            self._clean_up()
        return played

    def close(self) -> None:
        for number in list(self._connections):
            self._close_connection(number, politely=True)

    def _begin(self) -> None:
        self._names = Names()
        self._queues: dict[str, int] = {}  # actual name, and by which connection it was last seen
        self._forget_step()

    def _forget_step(self) -> None:
        self._replies: Lines = []
        self._returns: dict[Place, Lines] = defaultdict(list)
        self._deliveries: dict[Place, list[tuple[str, int, str]]] = defaultdict(list)
        self._confirms: dict[Place, dict[int, str]] = defaultdict(dict)
        self._ends: Lines = []
        self._absent: dict[str, str] = {}
        self._seen = 0  # frames
        # Several channels ended together, or one got a delivery while it ended: whether one dying channel is
        # still given what another one gave back, is not the same each time.
        self._is_left_to_chance = False

    # One step

    def _play_step(self, number: int, step: Step, sleeps: bool) -> Observation:
        self._forget_step()
        self._step = number
        try:
            self._act(step)
        except LinkEnded as error:
            self._lose(step.connection, str(error))
        if isinstance(step.action, Wait) or (sleeps and isinstance(step.action, _MAY_BRING_MESSAGES)):
            time.sleep(EXPIRY_S)
        states = self._settle()
        self._await_confirms()
        rest = [self._names.conceal(line) for line in (*self._replies, *self._report(), *states)]
        ends = sorted(map(self._names.conceal, self._ends))
        return Observation(ends, None if self._is_left_to_chance else rest)

    def _act(self, step: Step) -> None:
        number, channel, action = step.connection, step.channel, step.action
        if isinstance(action, Wait):
            return
        if isinstance(action, CloseConnection):
            self._close_connection(number, politely=action.politely)
            return
        self._open(number, channel)
        connection = self._connections[number]
        known = connection.channels[channel]
        if isinstance(action, Publish):
            self._publish(connection, channel, action)
            return
        if isinstance(action, SettleTag):
            method = _SETTLEMENTS[action.kind](action.tag, action.multiple, action.requeue)
        elif isinstance(action, Settle):
            if not known.outstanding:
                return
            method = _settlement(known, action)
        else:
            method = self._with_actual_names(action)
        if isinstance(method, m.QueueDeclare) and not method.passive and method.queue:
            self._queues[method.queue] = number
        if isinstance(method, m.BasicConsume) and method.no_ack and method.consumer_tag:
            known.silent_tags.add(method.consumer_tag)
        if isinstance(method, m.ConfirmSelect) and known.publishes is None:
            known.publishes = 0
        connection.link.send(channel, method)
        answers = _answers(method)
        if answers:
            answer = self._read_until(number, channel, answers)
            self._note_answer(number, channel, method, answer)

    def _note_answer(self, number: int, channel: int, method: Method, answer: Method) -> None:
        if isinstance(answer, m.ConnectionClose | m.ChannelClose):
            return
        known = self._connections[number].channels[channel]
        match method, answer:
            case m.ChannelClose(), _:
                del self._connections[number].channels[channel]
            case m.BasicConsume(no_ack=True), m.BasicConsumeOk():
                known.silent_tags.add(answer.consumer_tag)
            case m.BasicGet(no_ack=False), m.BasicGetOk():
                known.outstanding.append((self._step, "", answer.delivery_tag))
            case _, m.QueueDeclareOk():
                self._queues.setdefault(answer.queue, number)

    def _publish(self, connection: _Connection, channel: int, action: Publish) -> None:
        known = connection.channels[channel]
        if known.publishes is not None:
            known.publishes += 1
            known.unconfirmed.add(known.publishes)
        method = replace(action.method, routing_key=self._names.reveal(action.method.routing_key))
        body = b"m%d" % self._step + b"." * action.padding
        connection.link.publish(channel, method, encode_properties(action.properties), body)

    def _with_actual_names(self, method: Method) -> Method:
        named = {
            field: self._names.reveal(getattr(method, field))
            for field, _ in method.layout
            if field in ("queue", "routing_key", "consumer_tag")
        }
        return replace(method, **named)  # type: ignore[type-var]  # every method is a dataclass

    # Coming to rest

    def _settle(self) -> Lines:
        states: Lines | None = None
        for _ in range(ROUNDS_MAX):
            seen = self._seen
            self._round_trips()
            before, states = states, self._queue_states()
            self._round_trips()
            if states == before and self._seen == seen:
                break
        else:
            self._ends.append("never came to rest")
        return states or []

    def _round_trips(self) -> None:
        """A method and its answer on every channel; the answers are waited for together."""
        asked = [
            (number, channel, known)
            for number, connection in self._connections.items()
            for channel, known in connection.channels.items()
            if channel != CONTROL
        ]
        for number, channel, known in asked:
            known.is_asked = True
            self._send(number, channel, m.ChannelFlow(active=True))
        for number, channel, known in asked:
            if known.is_asked:
                self._receive(number, channel, m.ChannelFlowOk)

    def _queue_states(self) -> Lines:
        states = {queue: self._queue_state(queue) for queue in list(self._queues)} | self._absent
        return sorted(f"{self._names.conceal(queue)}: {state}" for queue, state in states.items())

    def _queue_state(self, queue: str) -> str:
        """Its counts, asked by a connection that may see it."""
        others = [number for number in (*self._connections, OBSERVER) if number != self._queues[queue]]
        state = "locked"
        for number in dict.fromkeys((self._queues[queue], *others)):
            if number != OBSERVER and number not in self._connections:
                continue
            self._open(number, CONTROL)
            answer = self._call(number, CONTROL, m.QueueDeclare(queue=queue, passive=True), m.QueueDeclareOk)
            if isinstance(answer, m.QueueDeclareOk):
                self._queues[queue] = number
                return f"{answer.message_count} ready, {answer.consumer_count} consumers"
            if isinstance(answer, m.ChannelClose) and answer.reply_code == 404:
                del self._queues[queue]
                state = self._absent[queue] = "absent"
                break
        return state

    def _await_confirms(self) -> None:
        for number, connection in list(self._connections.items()):
            try:
                while any(known.unconfirmed for known in connection.channels.values()):
                    self._note(number, connection.link.receive())
            except LinkEnded as error:
                self._lose(number, f"waiting for confirms: {error}")

    def _report(self) -> Iterator[str]:
        """What came without being asked for, in an order that does not depend on chance."""
        for place, lines in sorted(self._returns.items()):
            yield from (f"{place} {line}" for line in lines)
        for place, deliveries in sorted(self._deliveries.items()):
            self._is_left_to_chance |= not self._is_open(*place)
            shown = [(self._names.conceal(tag), number, text) for tag, number, text in deliveries]
            shown.sort(key=lambda delivery: delivery[0])
            yield from (f"{place} deliver to {tag}: {text}" for tag, _, text in shown)
            yield f"{place} delivery tags {sorted(number for _, number, _ in shown)}"
            self._expect_settlement(place, shown)
        for place, confirms in sorted(self._confirms.items()):
            yield f"{place} confirms {sorted(confirms.items())}"

    def _expect_settlement(self, place: Place, deliveries: list[tuple[str, int, str]]) -> None:
        connection = self._connections.get(place[0])
        known = connection.channels.get(place[1]) if connection else None
        if known is not None:
            silent = {self._names.conceal(tag) for tag in known.silent_tags}
            known.outstanding += [
                (self._step, f"{tag} {text}", number) for tag, number, text in deliveries if tag not in silent
            ]

    # Frames

    def _call(self, number: int, channel: int, method: Method, *answers: type[Method]) -> Method | None:
        """The answer, a close, or None when the connection or the channel is gone."""
        self._send(number, channel, method)
        return self._receive(number, channel, *answers)

    def _send(self, number: int, channel: int, method: Method) -> None:
        if self._is_open(number, channel):
            try:
                self._connections[number].link.send(channel, method)
            except LinkEnded as error:
                self._lose(number, str(error))

    def _is_open(self, number: int, channel: int) -> bool:
        return number in self._connections and channel in self._connections[number].channels

    def _receive(self, number: int, channel: int, *answers: type[Method]) -> Method | None:
        if not self._is_open(number, channel):
            return None
        try:
            return self._read_until(number, channel, answers)
        except LinkEnded as error:
            self._lose(number, str(error))
            return None

    def _read_until(self, number: int, channel: int, answers: tuple[type[Method], ...]) -> Method:
        """Note everything up to the answer on a channel, or up to the close that came instead."""
        link = self._connections[number].link
        while True:
            received = link.receive()
            self._note(number, received)
            method = received.method
            if isinstance(method, m.ConnectionClose):
                return method
            if received.channel == channel and isinstance(method, (*answers, m.ChannelClose)):
                return method

    def _note(self, number: int, received: Received) -> None:
        channel, method = received.channel, received.method
        place = number, channel
        connection = self._connections[number]
        if isinstance(method, m.ConnectionClose):
            self._seen += 1
            self._ends.append(f"connection {number}: {show_method(method)}")
            connection.link.send(0, m.ConnectionCloseOk())
            connection.link.wait_for_end()
            self._forget(number)
            return
        if isinstance(method, m.ChannelClose):
            connection.link.send(channel, m.ChannelCloseOk())
            del connection.channels[channel]
        known = connection.channels.get(channel)
        if isinstance(method, m.ChannelFlowOk) and known is not None:
            known.is_asked = False
        if channel == CONTROL or isinstance(method, m.ChannelFlowOk | m.ChannelOpenOk):
            return
        self._seen += 1
        match method:
            case m.ChannelClose():
                self._ends.append(f"{place} {show_method(method)}")
            case m.BasicDeliver():
                text = show_content(received.properties, received.body)
                how = "redelivered " if method.redelivered else ""
                text = f"{how}{method.exchange!r} {method.routing_key!r} {text}"
                self._deliveries[place].append((method.consumer_tag, method.delivery_tag, text))
            case m.BasicReturn():
                content = show_content(received.properties, received.body)
                self._returns[place].append(f"{show_method(method)} {content}")
            case m.BasicAck() | m.BasicNack() if known is not None:
                self._note_confirm(place, known, method)
            case m.BasicCancel():
                self._ends.append(f"{place} {show_method(method)}")
            case _:
                content = show_content(received.properties, received.body) if received.properties else ""
                self._replies.append(f"{place} {show_method(method)} {content}".rstrip())

    def _note_confirm(self, place: Place, known: _Channel, method: m.BasicAck | m.BasicNack) -> None:
        tag = method.delivery_tag
        answered = {each for each in known.unconfirmed if each <= tag} if method.multiple else {tag}
        for each in answered:
            previous = self._confirms[place].get(each, "")
            self._confirms[place][each] = previous + type(method).__name__
        if not answered <= known.unconfirmed:
            self._ends.append(f"{place} confirmed what was not published: {sorted(answered)}")
        known.unconfirmed -= answered

    # Connections and channels

    def _open(self, number: int, channel: int) -> None:
        if number not in self._connections:
            self._connections[number] = _Connection(Link(self._port, CAPABILITIES[number]))
        connection = self._connections[number]
        if channel not in connection.channels:
            connection.channels[channel] = _Channel()
            connection.link.send(channel, m.ChannelOpen())
            self._read_until(number, channel, (m.ChannelOpenOk,))

    def _close_connection(self, number: int, *, politely: bool) -> None:
        connection = self._connections.get(number)
        if connection is None:
            return
        if politely:
            try:
                connection.link.send(0, m.ConnectionClose(reply_code=200))
                self._read_until(number, 0, (m.ConnectionCloseOk,))
                connection.link.drop()
            except LinkEnded as error:
                self._ends.append(f"connection {number} while closing: {error}")
        else:
            connection.link.drop()
            time.sleep(DROP_S)
        self._forget(number)

    def _forget(self, number: int) -> None:
        connection = self._connections.pop(number, None)
        if connection is not None:
            self._is_left_to_chance |= len(connection.channels.keys() - {CONTROL}) > 1

    def _lose(self, number: int, why: str) -> None:
        connection = self._connections.get(number)
        if connection is not None:
            connection.link.drop()
            self._forget(number)
            self._ends.append(f"connection {number} is lost: {why}")

    def _clean_up(self) -> None:
        for number in (0, 1):
            self._close_connection(number, politely=True)
        self._open(OBSERVER, CONTROL)
        for queue in {*QUEUES, *self._queues}:
            self._call(OBSERVER, CONTROL, m.QueueDelete(queue=queue), m.QueueDeleteOk)
            self._open(OBSERVER, CONTROL)
        for exchange in EXCHANGES:
            self._call(OBSERVER, CONTROL, m.ExchangeDelete(exchange=exchange), m.ExchangeDeleteOk)


def _answers(method: Method) -> tuple[type[Method], ...]:
    if isinstance(method, _NO_ANSWER) or getattr(method, "no_wait", False):
        return ()
    class_id, method_id = method.ids
    return _UNUSUAL_ANSWERS.get(type(method)) or (METHODS[class_id, method_id + 1],)


def _settlement(known: _Channel, action: Settle) -> Method:
    known.outstanding.sort(key=lambda each: each[:2])
    step, _, tag = known.outstanding[action.which % len(known.outstanding)]
    settled = {tag}
    if action.multiple and action.kind != "reject":
        tag = max(each for number, _, each in known.outstanding if number == step)
        settled = {each for _, _, each in known.outstanding if each <= tag}
    known.outstanding = [each for each in known.outstanding if each[2] not in settled]
    return _SETTLEMENTS[action.kind](tag, action.multiple, action.requeue)
