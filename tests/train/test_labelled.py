"""The experiment on labelled minutes: which trainings it runs, what it reads again, and what its table says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emova.core.errors import InputError
from emova_train.core.loop import FitResult
from emova_train.experiments import labelled
from emova_train.experiments.labelled import LabelledConfig, Result, cells, config_of, table
from emova_train.s2u.data import ClipStore
from tests.train.test_s2u_pretrain import voice, write_shard


def test_each_cell_differs_in_its_start_its_minutes_and_its_seed_alone() -> None:
    config = LabelledConfig(minutes=(10, 30), seeds=2)
    found = [config_of(config, cell) for cell in cells(config)]
    assert len(found) == 12 and len({each.run.output_dir for each in found}) == 12
    assert {(bool(each.start_from), bool(each.whisper)) for each in found} == {
        (False, False),
        (True, False),
        (False, True),
    }
    assert {each.minutes for each in found} == {10, 30} and {each.run.seed for each in found} == {0, 1}
    assert len({repr((each.model, each.train, each.validation, each.run.max_steps)) for each in found}) == 1
    with pytest.raises(InputError, match="start 'hubert' is unknown"):
        LabelledConfig(starts=("hubert",))


def test_finished_cells_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def fake(config) -> FitResult:
        trained.append((config.start_from, config.minutes, config.run.seed))
        Path(config.run.output_dir).mkdir(parents=True)
        return FitResult(
            1, 0, 60.0, None, {}, {"phone_error/real": 0.5 - config.minutes / 1000, "eval_seconds": 3.0}, None
        )

    monkeypatch.setattr(labelled, "train", fake)
    config = LabelledConfig(starts=("random", "spiral"), minutes=(10, 100), seeds=2, output=tmp_path)
    first = labelled.run(config, lambda line: None)
    assert len(trained) == 8 and not list(tmp_path.glob("*/run"))
    assert labelled.run(config, lambda line: None) == first and len(trained) == 8
    longer = LabelledConfig(minutes=(10, 100), seeds=2, output=tmp_path, overrides=("run.max_steps=9",))
    with pytest.raises(InputError, match="random-10-0: was trained by another config; give another --output"):
        labelled.run(longer, lambda line: None)
    (tmp_path / "spiral-10-1" / "result.json").unlink()
    labelled.run(config, lambda line: None)
    assert len(trained) == 9 and trained[-1][1:] == (10.0, 1)
    assert json.loads((tmp_path / "random-10-0" / "result.json").read_text())["figures"] == {"phone_error/real": 0.49}
    assert "| random | 10 | 2 | 49.0 ± 0.0 | 60 |" in (tmp_path / "table.md").read_text()


def test_results_of_another_machine_are_read_and_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = LabelledConfig(starts=("random", "spiral"), minutes=(10,), seeds=1, output=tmp_path / "there")

    def fake(config) -> FitResult:
        Path(config.run.output_dir).mkdir(parents=True)
        return FitResult(1, 0, 60.0, None, {}, {"phone_error/real": 0.4}, None)

    monkeypatch.setattr(labelled, "train", fake)
    measured = labelled.run(there, lambda line: None)
    monkeypatch.setattr(labelled, "train", None)
    file = there.output / "results.json"
    here = LabelledConfig(starts=("random",), minutes=(10, 30), seeds=1, output=tmp_path / "here")
    assert labelled.join(here, file) == 1  # of spiral there is none wanted
    [first, second] = cells(here)
    assert labelled.run_cell(here, first) == measured[0] and not second.done

    other = LabelledConfig(
        starts=("random",), minutes=(10,), seeds=1, overrides=("run.max_steps=9",), output=tmp_path / "o"
    )
    with pytest.raises(InputError, match="random, 10 minutes, seed 0, was trained by another config"):
        labelled.join(other, file)
    for text in ("{", "[]", '{"rows": [{"start": "random"}]}'):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(InputError, match="broken.json: no results"):
            labelled.join(here, tmp_path / "broken.json")
    assert not other.output.exists()


def test_the_interval_is_students() -> None:
    rows = [Result("random", 10, seed, 5.0, {"phone_error/real": value}) for seed, value in enumerate((0.1, 0.2, 0.3))]
    assert "20.0 ± 24.8" in table(rows) and "10.0 |" in table(rows[:1])


def test_fewer_minutes_are_part_of_more_and_too_many_are_refused(tmp_path: Path) -> None:
    clips = {f"c{number:02d}": voice(number, 1.0 + 0.05 * number) for number in range(12)}
    write_shard(tmp_path / "s-000000.tar", clips, phones=["h", "O"])

    def store() -> ClipStore:
        return ClipStore([str(tmp_path / "s-*.tar")], tmp_path / "cache")

    kept = []
    for minutes in (0.05, 0.1, 0.2):
        limited = store()
        limited.limit(minutes, 0)
        assert sum(clip.length for clip in limited.clips) <= 60 * minutes * 16000
        assert len(limited.source) == len(limited.clips)
        kept.append({clip.key for clip in limited.clips})
    assert kept[0] < kept[1] < kept[2]
    other = store()
    other.limit(0.1, 1)
    assert {clip.key for clip in other.clips} != kept[1]
    with pytest.raises(InputError, match="minutes=5: there are 0.3"):
        store().limit(5, 0)
