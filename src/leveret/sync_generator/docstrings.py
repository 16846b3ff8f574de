"""Docstrings of the client in other words: those for users of the synchronous face.

They keep their lines; only a paragraph in which a line has become too long is filled anew.
"""

import ast
import re
import textwrap
from collections.abc import Iterator

WIDTH = 102  # of lines in a method, which are indented by 8
WIDTH_MAX = 106  # in a class or a function

WORDS = (
    (r"\basync (with|for|def)\b", r"\1"),
    (r"\bawait |(?<=; )when awaited, ", ""),
    (r"\ban async(?:hronous)?(\s+)context manager\b", r"a\1context manager"),
    (r"\bSeveral tasks\b", "Several threads"),
    (r"\b(async|asynchronous) iterator\b", "iterator"),
    (r"\basyncio\.timeout\b", "leveret.sync.timeout"),
    (r"\bleveret\.(connect\b|[A-Z])", r"leveret.sync.\1"),
)
"""How the words change, in this order."""

REWORDED = {
    """
    An `async def` runs in the event loop and must not block it. A `def` runs in a thread, of which there are
    as many as the concurrency, and may block for as long as it likes: heartbeats go on. It may settle its
    message, but must leave everything else of the connection to the loop.
    """: """
    It runs in a thread, of which there are as many as the concurrency, and may block for as long as it likes:
    heartbeats go on.
    """,
    "When this is cancelled (with `asyncio.run` that is what Ctrl-C does), handlers": "On Ctrl-C, handlers",
}
"""Sentences that are different here, however their lines break."""

ARGUMENT = re.compile(r"    \w+(, \w+)*: ")
"""Begins what is said of an argument; lines that go on with it are indented further."""


def docstring(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """As it is written here; empty when there is none."""
    text = ast.get_docstring(node)
    return "" if text is None else f'"""{in_other_words(text)}"""'


def in_other_words(text: str) -> str:
    """What is between the quotes."""
    longest = max(map(len, text.splitlines()))
    width = min(max(WIDTH, longest), WIDTH_MAX)  # what was short enough in the client is so here
    for old, new in REWORDED.items():
        pattern = r"\s+".join(map(re.escape, old.split()))
        text = re.sub(pattern, " ".join(new.split()), text)
    for pattern, replacement in WORDS:
        text = re.sub(pattern, replacement, text)
    lines = [line for paragraph in _paragraphs(text) for line in _filled(paragraph, width)]
    return "\n".join(lines) + ("\n" if len(lines) > 1 else "")


def _paragraphs(text: str) -> Iterator[list[str]]:
    """Lines that belong together; an empty line is one of its own."""
    found: list[str] = []
    for line in text.splitlines():
        if not found or not _goes_on(found, line):
            if found:
                yield found
            found = []
        found.append(line)
    if found:
        yield found


def _goes_on(paragraph: list[str], line: str) -> bool:
    if not line or not paragraph[-1] or ARGUMENT.match(line):
        return False
    if _margin(line) == _margin(paragraph[-1]):
        return True
    return ARGUMENT.match(paragraph[0]) is not None and len(_margin(line)) > len(_margin(paragraph[0]))


def _margin(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _filled(lines: list[str], width: int) -> list[str]:
    """A paragraph, anew if a line is too long now."""
    if max(map(len, lines)) <= width:
        return lines
    first = rest = _margin(lines[0])
    if ARGUMENT.match(lines[0]):
        rest += " " * 4
    return textwrap.wrap(" ".join(map(str.strip, lines)), width, initial_indent=first, subsequent_indent=rest)
