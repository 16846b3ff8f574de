"""No option is there for show: each is read by the broker, and shipped files name real ones only."""

import re

import pytest
from sources import ROOT, python_files

from leveret.broker.daemon.config import OPTIONS

OTHER_VARIABLES = {"LEVERET_CONFIG", "LEVERET_TEST_TIMEOUT_FACTOR", "LEVERET_URL"}
SHIPPED = ("Dockerfile", "README.md", "deploy/leveret.service")


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_read(name: str) -> None:
    broker = [file for file in python_files("broker") if file.name != "config.py"]
    assert any(re.search(rf"config\.{name}\b", file.read_text(encoding="utf-8")) for file in broker)


@pytest.mark.parametrize("file", SHIPPED)
def test_a_shipped_file_names_real_options(file: str) -> None:
    variables = {option.variable for option in OPTIONS.values()} | OTHER_VARIABLES
    text = (ROOT / file).read_text(encoding="utf-8")
    assert set(re.findall(r"\bLEVERET_[A-Z_]*[A-Z]\b", text)) <= variables
