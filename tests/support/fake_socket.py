"""The other end of a raw connection: sends what a test says, cut as it says, and keeps what it gets."""


class FakeSocket:
    """Gives out one piece per receive; after the last one the connection is closed."""

    def __init__(self) -> None:
        self.sent = b""
        self._pieces: list[bytes] = []

    def say(self, data: bytes, size: int = 1 << 16) -> None:
        """Cut into pieces of this size."""
        self._pieces += [data[at : at + size] for at in range(0, len(data), size)]

    @property
    def has_said_everything(self) -> bool:
        return not self._pieces

    def recv(self, size: int) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        assert len(piece) <= size
        return piece

    def recv_into(self, buffer: memoryview) -> int:
        piece = self.recv(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def sendall(self, data: bytes) -> None:
        self.sent += bytes(data)

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Nothing to do."""
