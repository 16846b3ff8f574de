"""What the README and the SDK's page show is what there is."""

import ast
import re
from pathlib import Path

import pytest
from sources import ROOT

import leveret

TUTORIALS = ROOT / "examples" / "tutorials"
FOR_USERS = ("README.md", "docs/sdk.md", "docs/testing.md")
DOCUMENTS = (
    "README.md",
    "benchmarks/README.md",
    *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md"))),
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
OF_FILE = re.compile(r'"""(?P<name>\w+\.py) ')
"""The first line of a block that is a file."""
LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]*)(?:#(?P<heading>[^)]*))?\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[str]:
    found: list[str] = BLOCK.findall(text_of(document))
    return found


def anchors(file: Path) -> set[str]:
    """What a link may say behind its #, as GitHub makes it of the headings."""
    headings = HEADING.findall(BLOCK.sub("", file.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_shows_every_tutorial_as_it_is() -> None:
    shown = {start["name"]: block for block in blocks("README.md") if (start := OF_FILE.match(block))}
    assert shown == {file.name: file.read_text(encoding="utf-8") for file in TUTORIALS.glob("*.py")}


@pytest.mark.parametrize("document", FOR_USERS)
def test_its_python_is_python(document: str) -> None:
    for number, block in enumerate(blocks(document), 1):
        compile(block, f"{document}, block {number}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("document", FOR_USERS)
def test_the_names_that_it_uses_exist(document: str) -> None:
    names = set(re.findall(r"\bleveret\.([A-Z]\w*)", text_of(document)))
    assert names <= set(leveret.__all__)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_its_links_lead_somewhere(document: str) -> None:
    source = ROOT / document
    for link in LINK.finditer(text_of(document)):
        target = source.parent / link["path"] if link["path"] else source
        assert target.exists(), link[0]
        assert link["heading"] is None or link["heading"] in anchors(target), link[0]
