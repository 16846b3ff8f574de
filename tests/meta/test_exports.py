"""Every module can be imported, and what it says it exports is there."""

import importlib
from types import ModuleType

import pytest
from sources import PACKAGES, installed_path, python_files

MODULES = sorted(
    {
        ".".join(("leveret", *installed_path(file).with_suffix("").parts)).removesuffix(".__init__")
        for file in python_files(*PACKAGES)
    }
)


def exported(module: ModuleType) -> list[str]:
    names: list[str] = getattr(module, "__all__", [])
    return names


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_and_has_what_it_exports(name: str) -> None:
    module = importlib.import_module(name)
    assert [export for export in exported(module) if not hasattr(module, export)] == []


def test_the_package_itself_has_what_it_exports() -> None:
    leveret = importlib.import_module("leveret")
    assert "__version__" in exported(leveret)
    assert [export for export in exported(leveret) if not hasattr(leveret, export)] == []
