"""`leveret.sync` is what its generator makes of the asynchronous client, and has all of it."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import leveret
import leveret.sync
from leveret.sync_generator import docstrings, generate


@pytest.fixture(scope="module")
def generated() -> dict[Path, str]:
    return generate.generate()


def test_what_is_committed_is_what_the_generator_writes(generated: dict[Path, str]) -> None:
    stale = [path.name for path, text in generated.items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "the client has changed; run `make sync`"


def test_every_export_is_there(generated: dict[Path, str]) -> None:
    missing = set(leveret.client.__all__) - set(leveret.sync.__all__)
    assert missing == generate.ASYNC_ONLY


@pytest.mark.parametrize("face", generate.FACES, ids=lambda face: face.name)
def test_what_is_internal_exists(face: generate.FaceOf) -> None:
    """A name that the client has no more should not stay in the list."""
    source = inspect.getsource(importlib.import_module(f"leveret.client.{face.module}"))
    assert face.internal - set(re.findall(r"\w+", source)) == set()


def test_no_docstring_speaks_of_await(generated: dict[Path, str]) -> None:
    words = re.compile(r"\b(await(ed)?|async (with|for|def)|asyncio.run)\b")
    found = [
        f"{path.name}: {line.strip()}"
        for path, text in generated.items()
        for line in text.splitlines()
        if words.search(line) and path.name != "__init__.py"
    ]
    assert found == []


class TestDocstrings:
    def test_a_paragraph_that_grows_is_filled_anew_and_nothing_else(self) -> None:
        words = "word " * 16
        text = f"First.\n\n{words}leveret.connect() it\nis\n\nand\nso on"
        filled = f"First.\n\n{words}leveret.sync.connect()\nit is\n\nand\nso on\n"
        assert docstrings.in_other_words(text) == filled

    def test_an_argument_that_grows_keeps_its_indentation_and_to_itself(self) -> None:
        words, others = "word " * 14, "    name: this\n    no_ack, exclusive: that"
        text = f"Args:\n    url: {words}leveret.connect() it\n        is\n{others}"
        filled = f"Args:\n    url: {words}leveret.sync.connect()\n        it is\n{others}\n"
        assert docstrings.in_other_words(text) == filled

    def test_lines_as_long_as_the_client_has_them_stay(self) -> None:
        text = f"Args:\n    url: {'x' * 97}\n        more"
        assert docstrings.in_other_words(text) == f"{text}\n"


class TestWhatCannotBeTranslated:
    def refusal(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> str:
        (tmp_path / "thing.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(generate, "CLIENT", tmp_path)
        monkeypatch.setattr(generate, "FACES", (generate.FaceOf("thing", "Thing"),))
        monkeypatch.setattr(generate, "FACE_MODULES", {"Thing": "thing"})
        with pytest.raises(generate.CannotTranslate) as caught:
            generate.module_text("thing")
        return str(caught.value)

    @pytest.mark.parametrize(
        ("member", "text"),
        [
            (
                "async def all(self) -> dict[str, Thing]: ...",
                "Thing.all: result_of() in generate.py has no rule",
            ),
            ("async def some(self): ...", "Thing.some: a return annotation is missing"),
            ("def __init__(self) -> None:\n        self.name = f()", "Thing.name needs an annotation"),
            ("@cache\n    def f(self) -> int: ...", "Thing.f: no rule for the decorators"),
            ("def f(self) -> Elsewhere: ...", "client/thing.py does not say what Elsewhere is"),
        ],
    )
    def test_it_says_where_and_what(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, member: str, text: str
    ) -> None:
        assert text in self.refusal(monkeypatch, tmp_path, f"class Thing:\n    {member}\n")

    def test_a_class_that_is_gone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert "client/thing.py has no class Thing" in self.refusal(monkeypatch, tmp_path, "")
