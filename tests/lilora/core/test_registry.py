"""A file's name is its registry entry."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from lilora.core import registry
from lilora.methods.lilora import LiLoRA


def test_the_files_of_a_folder_are_its_entries() -> None:
    assert {"zeroshot", "seqlora", "dirlora", "lilora"} <= set(registry.names("methods"))
    assert registry.load("methods", "lilora") is LiLoRA


def test_a_typo_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="no method 'lilra'; lilora/methods has: .*dirlora, .*lilora, .*seqlora"):
        registry.load("methods", "lilra")


def test_a_name_with_dots_and_dashes_finds_the_file_with_underscores() -> None:
    for name in ("llava-1.5-7b", "llava_1_5_7b", "llava_1.5-7b"):
        assert registry.load("backbones", name).name == "llava-1.5-7b"
    assert "llava_1_5_7b" in registry.names("backbones")
    with pytest.raises(ValueError, match="no backbone 'llava-1.5'; lilora/backbones has: llava_1_5_13b, llava_1_5_7b"):
        registry.load("backbones", "llava-1.5")


def test_an_unknown_kind_lists_the_kinds() -> None:
    with pytest.raises(ValueError, match="no kind 'method'; there are: methods, benchmarks"):
        registry.names("method")


def test_installed_packages_add_entries_but_take_none_over(monkeypatch: pytest.MonkeyPatch) -> None:
    added = [
        EntryPoint("theirs", "collections:OrderedDict", "lilora.methods"),
        EntryPoint("with-dash", "collections:OrderedDict", "lilora.methods"),
        EntryPoint("lilora", "collections:OrderedDict", "lilora.methods"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: added if group == "lilora.methods" else [])
    assert "theirs" in registry.names("methods")
    assert registry.load("methods", "theirs").__name__ == "OrderedDict"
    assert registry.load("methods", "with_dash") is registry.load("methods", "with-dash")
    assert registry.load("methods", "lilora") is LiLoRA


@pytest.mark.parametrize("kind", registry.OBJECTS)
def test_every_entry_loads(kind: str) -> None:
    for name in registry.names(kind):
        assert registry.load(kind, name) is not None
