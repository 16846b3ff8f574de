"""The topic exchange: binding keys are patterns of words (0-9-1 section 3.1.3.3).

Keys are words separated by dots; in a binding key `*` stands for exactly one word and `#` for zero or more.
The empty key has no words; two dots in a row have an empty word between them, which `*` matches.

The binding keys form a trie of words. A routing key is matched by following all branches that fit at once,
word by word: the cost depends on the words and on the branches that fit so far, not on the number of
bindings, and several `#` in one key cannot make it explode.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from ..binding import Binding, BindingSet, Destination
from .exchange import Envelope, Exchange

_ONE_WORD = "*"
_ANY_WORDS = "#"


class _Node:
    """A place in the trie: the words of a binding key up to here."""

    __slots__ = ("bindings", "children", "takes_any_words")

    def __init__(self, word: str) -> None:
        self.children: dict[str, _Node] = {}
        self.bindings = BindingSet()
        self.takes_any_words = word == _ANY_WORDS


class TopicExchange(Exchange):
    """Bindings in a trie."""

    type = "topic"

    def __init__(self, name: str, vhost_name: str, **properties: Any) -> None:
        super().__init__(name, vhost_name, **properties)
        self._root = _Node("")

    def add_binding(self, binding: Binding) -> None:
        node = self._root
        for word in _words(binding.key):
            node = node.children.setdefault(word, _Node(word))
        node.bindings.add(binding)

    def remove_binding(self, binding: Binding) -> None:
        words = _words(binding.key)
        path = [self._root]
        for word in words:
            path.append(path[-1].children[word])
        path[-1].bindings.remove(binding)
        for word, node, parent in zip(reversed(words), reversed(path), reversed(path[:-1]), strict=False):
            if node.bindings or node.children:
                break
            del parent.children[word]

    def match(self, envelope: Envelope) -> Iterator[Destination]:
        for key in envelope.keys:
            for node in self._nodes(key):
                for binding in node.bindings:
                    yield binding.destination

    def _nodes(self, key: str) -> Iterable[_Node]:
        """The nodes whose words match the whole key."""
        nodes = _with_no_words([self._root])
        for word in _words(key):
            following: dict[_Node, None] = {}
            for node in nodes:
                children = node.children
                # A routing key with the word "*" or "#" finds the wildcard's own node: it matches anyway.
                for fitting in (word, _ONE_WORD):
                    child = children.get(fitting)
                    if child is not None:
                        following[child] = None
                if node.takes_any_words:
                    following[node] = None
            nodes = _with_no_words(following)
        return nodes


def _with_no_words(nodes: Iterable[_Node]) -> dict[_Node, None]:
    """These nodes and those that `#` reaches from them without taking a word."""
    reached: dict[_Node, None] = {}
    for start in nodes:
        node: _Node | None = start
        while node is not None and node not in reached:
            reached[node] = None
            node = node.children.get(_ANY_WORDS)
    return reached


def _words(key: str) -> list[str]:
    return key.split(".") if key else []
