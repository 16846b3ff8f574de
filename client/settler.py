"""The acks, nacks and rejects of a channel, collected: those of one loop turn leave as one frame per kind."""

from leveret.protocol.native.connection import ClientConnection
from leveret.protocol.native.fields import ENTRIES_MAX
from leveret.protocol.native.layouts import FrameType
from leveret.protocol.native.tags import pack_tags

NO_REPLY = 0  # the request id of settlements: they are answered only when they fail


class Settler:
    """Made and owned by `Channel`, which checks that each tag is settled once."""

    def __init__(self, protocol: ClientConnection, number: int) -> None:
        self._protocol = protocol
        self._number = number
        self.acks: list[int] = []
        self.nacks: dict[bool, list[int]] = {True: [], False: []}  # by requeue
        self.rejects: dict[bool, list[int]] = {True: [], False: []}

    def write_batches(self) -> bool:
        """Turn what was collected into frames; returns whether there was something."""
        found = bool(self.acks)
        if self.acks:
            self._write(FrameType.ACK, self.acks)
            self.acks = []
        for type_, by_requeue in ((FrameType.NACK, self.nacks), (FrameType.REJECT, self.rejects)):
            for requeue, tags in by_requeue.items():
                if tags:
                    found = True
                    self._write(type_, tags, requeue)
                    by_requeue[requeue] = []
        return found

    def _write(self, type_: FrameType, tags: list[int], *fields: bool) -> None:
        packed = pack_tags(tags)
        for start in range(0, len(packed), ENTRIES_MAX):
            self._protocol.send(type_, NO_REPLY, self._number, packed[start : start + ENTRIES_MAX], *fields)
