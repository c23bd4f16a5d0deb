"""Config files: overrides win, unknown keys and wrong types are refused in one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from emova.core.config import load_config, save_config
from emova.core.errors import InputError


@dataclass(frozen=True)
class Inner:
    width: int = 4


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    inner: Inner = field(default_factory=Inner)


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("name: file\ninner: {width: 5}\n")
    assert load_config(Outer, path, ["inner.width=6"]) == Outer("file", Inner(6))


def test_a_file_says_what_differs_from_its_base(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("name: base\ninner: {width: 5}\n")
    (tmp_path / "sub" / "own.yaml").write_text("base: ../base.yaml\nname: own\n")
    assert load_config(Outer, tmp_path / "sub" / "own.yaml") == Outer("own", Inner(5))
    (tmp_path / "base.yaml").write_text("base: sub/own.yaml\n")
    with pytest.raises(InputError, match="its own base"):
        load_config(Outer, tmp_path / "base.yaml")


def test_saved_then_loaded_is_equal(tmp_path: Path) -> None:
    config = Outer("y", Inner(9))
    save_config(config, tmp_path / "config.yaml")
    assert load_config(Outer, tmp_path / "config.yaml") == config


@pytest.mark.parametrize("override", ["inner.widht=6", "inner.width=abc", "nmae=x"])
def test_a_misspelt_key_or_wrong_type_is_refused(override: str) -> None:
    with pytest.raises(InputError, match=override.split("=")[0].split(".")[-1]):
        load_config(Outer, None, [override])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere.yaml"):
        load_config(Outer, tmp_path / "nowhere.yaml")


def test_an_override_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(Outer, None, ["name=[a-[b"])
