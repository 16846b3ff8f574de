"""`Face`: what all synchronous objects are, one thing of the asynchronous client seen from any thread."""

from typing import Any, Generic, TypeVar, overload

from .portal import Portal

A = TypeVar("A")
T = TypeVar("T")


class Face(Generic[A]):
    """Two faces of the same thing are equal."""

    __slots__ = ("_async", "_portal")

    def __init__(self, portal: Portal, face_of: A) -> None:
        self._portal = portal
        self._async = face_of

    def __repr__(self) -> str:
        return f"<sync {repr(self._async).removeprefix('<')}"

    def __str__(self) -> str:
        return str(self._async)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Face) and other._async is self._async

    def __hash__(self) -> int:
        return hash(self._async)


@overload
def bare(value: Face[A]) -> A: ...


@overload
def bare(value: T) -> T: ...


def bare(value: Any) -> Any:
    """What the asynchronous client takes for an argument."""
    return value._async if isinstance(value, Face) else value
