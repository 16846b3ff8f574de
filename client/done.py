"""The answer of what is done already when it returns, such as `message.ack()`: it may be awaited, or not.

Settling a message takes effect at once and has no answer to wait for. `await message.ack()` is how users of
aio-pika write it; `message.ack()` without `await` is not a mistake here that loses the ack.
"""

from collections.abc import Coroutine, Generator
from typing import Any, NoReturn


class Done(Coroutine[Any, Any, None]):
    """A coroutine that is at its end whenever somebody looks. There is one for all: `DONE`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<done>"

    def __await__(self) -> Generator[Any, None, None]:
        return _nothing()

    def send(self, value: Any, /) -> NoReturn:
        raise StopIteration

    def throw(self, typ: Any, val: Any = None, tb: Any = None, /) -> NoReturn:
        raise typ if val is None else val

    def close(self) -> None:
        pass


def _nothing() -> Generator[Any, None, None]:
    return
    yield


DONE = Done()
