"""Config files: overrides win, unknown keys and wrong types are refused in one line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from emova.core.config import find_config, load_config, save_config, shipped_configs
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


@pytest.mark.parametrize(
    "override, told",
    [
        ("inner.widht=6", "command line: inner.widht: no such key; did you mean inner.width?"),
        ("width=6", "command line: width: no such key; did you mean inner.width?"),
        ("inner.zzz=6", "command line: inner.zzz: no such key; there are width"),
        ("inner={zzz: 6}", "command line: inner.zzz: no such key; there are width"),
    ],
)
def test_an_unknown_key_is_told_by_its_whole_path_with_the_nearest(override: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        load_config(Outer, None, [override])
    assert str(refused.value).startswith(told)


def test_a_key_of_a_file_is_told_by_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("inner: {widht: 6}\n", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        load_config(Outer, path, ["name=x"])
    assert str(refused.value) == f"{path}: inner.widht: no such key; did you mean inner.width?"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere.yaml"):
        load_config(Outer, tmp_path / "nowhere.yaml")


def test_an_override_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(Outer, None, ["name=[a-[b"])


@dataclass(frozen=True)
class Renamed:
    """A config whose keys had other names once."""

    RENAMED: ClassVar[dict[str, str]] = {"sight": "parts.vision", "parts.shares.told": "parts.shares.forced"}

    @dataclass(frozen=True)
    class Parts:
        vision: Inner = field(default_factory=Inner)
        shares: dict[str, float] = field(default_factory=dict)

    parts: Parts = field(default_factory=Parts)


def test_keys_of_earlier_versions_are_todays_in_files_bases_and_overrides(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("sight: {width: 5}\nparts: {shares: {told: 0.5, other: 1.0}}\n")
    (tmp_path / "new.yaml").write_text("base: old.yaml\nparts: {shares: {forced: 0.25}}\n")
    old, new = (load_config(Renamed, tmp_path / f"{name}.yaml").parts for name in ("old", "new"))
    assert old.vision == new.vision == Inner(5)
    assert old.shares == {"forced": 0.5, "other": 1.0} and new.shares == {"forced": 0.25, "other": 1.0}
    given = load_config(Renamed, tmp_path / "new.yaml", ["sight.width=7", "parts.shares.told=0"]).parts
    assert given.vision == Inner(7) and given.shares["forced"] == 0


def test_shipped_configs_are_found_by_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = shipped_configs()["stages/nano/stage1"]
    for name in ("stages/nano/stage1", "nano/stage1", "configs/stages/nano/stage1.yaml", "nano/stage1.yaml", shipped):
        assert find_config(name) == find_config(name, "stages") == shipped
    assert find_config("nano", "s2u") == find_config("s2u/nano") == find_config("configs/s2u/nano.yaml", "stages")
    assert find_config("zero2", "deepspeed").suffix == ".json"
    for name in shipped_configs():
        assert find_config(name) == find_config(f"configs/{name}.yaml") == shipped_configs()[name]


def test_a_file_goes_before_a_shipped_config_and_may_build_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "stage1.yaml").write_text("name: own\n")
    assert load_config(Outer, "nano/stage1.yaml").name == "own"
    assert find_config("nano/stage1").parent.name == "nano" and find_config("nano/stage1").is_absolute()
    (tmp_path / "mine.yaml").write_text("base: nano/stage1.yaml\ninner: {width: 9}\n")
    assert load_config(Outer, "mine.yaml") == Outer("own", Inner(9))
    from emova_train.stages.config import StageConfig

    (tmp_path / "mine.yaml").write_text("base: nano/stage3\nrun: {max_steps: 7}\n")
    mine, base = load_config(StageConfig, "mine.yaml"), load_config(StageConfig, "nano/stage3")
    assert mine.run.max_steps == 7 and mine.data == base.data


def test_a_name_that_is_none_or_several_is_answered_with_those_that_are_close() -> None:
    with pytest.raises(InputError, match="did you mean .*nano/stage1"):
        find_config("nano/stag1", "stages")
    with pytest.raises(InputError, match="several are called so; give one of .*s2u/nano"):
        find_config("nano")
