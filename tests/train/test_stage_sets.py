"""A stage on converted sets from end to end: resumed equals uninterrupted, everything that is watched is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emova.core.errors import InputError
from emova_train.core.metrics import read
from emova_train.core.reporting import open_reporters
from emova_train.data.pack_reader import ShardConfig
from emova_train.stages.config import RatesConfig
from emova_train.stages.data import DataConfig
from emova_train.stages.program import train
from emova_train.stages.validation import SampleConfig
from tests.train.fixtures_killed import killed_at
from tests.train.fixtures_sets import write_sets
from tests.train.test_stages import folder, stage  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    return write_sets(tmp_path_factory.mktemp("sets"))


def on_sets(folder: Path, sets: Path, name: str, steps: int, **changes: Any):  # noqa: F811
    base = stage(folder, name, rates=RatesConfig(llm=1e-3, projector=1e-3))
    data = DataConfig(
        sets={"pictures": 1.0, "speech": 1.0, "text": 1.0, "omni": 1.0}, held_out=["omni", "speech"],
        shards=ShardConfig(root=str(sets), window=2, block=4), pack_tokens=300, max_tokens=300,
    )  # fmt: skip
    run = replace(base.run, max_steps=4, save_every=2, eval_every=4)
    config = replace(base, data=data, run=run, samples=SampleConfig(2, 1, 2, 6, 6), **changes)
    return config if steps == 4 else replace(config, run=replace(run, max_steps=steps))


def test_resumed_equals_uninterrupted_on_sets(folder: Path, sets: Path) -> None:  # noqa: F811
    train(on_sets(folder, sets, "whole", 4))
    whole = [row for row in read(folder / "whole" / "metrics.jsonl") if row["kind"] == "train"]

    # The same run, killed after the checkpoint of step 2.
    killed_at(3, lambda: train(on_sets(folder, sets, "broken", 4)))
    assert (folder / "broken" / "checkpoint-2" / "data-0.json").is_file()
    train(on_sets(folder, sets, "broken", 4))
    broken = [row for row in read(folder / "broken" / "metrics.jsonl") if row["kind"] == "train"]
    for one, other in zip(whole, broken, strict=True):
        for name in ("step", "loss", "grad_norm", "samples_tried", "samples_skipped", "epoch"):
            assert one[name] == pytest.approx(other[name], rel=1e-5), name
    names = {name for row in whole for name in row}
    assert {"loss_image", "loss_speech", "loss_omni", "tokens_per_s", "mfu", "codebook_use", "grad_norm"} <= names
    assert (folder / "whole" / "curves.png").is_file()
    rows = [json.loads(line) for line in (folder / "whole" / "samples.jsonl").read_text().splitlines()]
    assert [row["task"] for row in rows] == ["spoken_picture", "spoken_picture", "asr", "asr"]
    page = folder / "whole" / "samples" / "0000004"
    assert page.joinpath("000.png").is_file() and "spoken_picture" in page.joinpath("index.html").read_text()


def test_an_unknown_set_is_named(folder: Path, sets: Path) -> None:  # noqa: F811
    config = on_sets(folder, sets, "wrong", 4)
    data = replace(config.data, sets={"pictures": 1.0, "speach": 1.0})
    with pytest.raises(InputError, match=r"set 'speach' is not in .*; did you mean speech\?"):
        train(replace(config, data=data))
    with pytest.raises(InputError, match="not both"):
        replace(config.data, mixture={"asr": 1.0})


@pytest.mark.parametrize("stage_name", ["1", "2", "3"])
def test_the_papers_stages_name_the_registrys_sets(stage_name: str) -> None:
    from emova.core.config import load_config
    from emova_data.sources.registry import mixture, registry
    from emova_train.stages.config import StageConfig

    config = load_config(StageConfig, ROOT / "configs" / "sets" / "paper" / f"stage{stage_name}.yaml")
    wanted = {
        f"{name}-units"
        if registry()[name].modality[0] == "speech" and registry()[name].access != "generated"
        else name: passes
        for name, passes in mixture(stage_name).items()
        if not name.startswith("emova-")  # the authors' collections hold the others
    }
    assert config.data.sets == wanted
    assert config.data.pack_tokens == 8192 and max(config.data.shards.budgets.values()) <= 8192


def test_reporters(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'tensorbord' is unknown; choose from tensorboard, wandb, trackio"):
        open_reporters(["tensorbord"], tmp_path)
    [board] = open_reporters(["tensorboard"], tmp_path)
    board.write("train", 1, {"loss": 2.5})
    board.write("eval", 1, {"loss": 2.0})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss/train", "loss/eval"]
    assert [event.value for event in events.Scalars("loss/train")] == [2.5]


def test_pages_of_samples_can_be_heard(tmp_path: Path) -> None:
    import numpy as np

    from emova.speech.style import Style
    from emova_train.stages.sample_page import Shown, Written, write_page

    class Voice:
        """Any voice: what counts is that its samples are on the page."""

        sample_rate = 16000

        def synthesize(self, units, style):
            return np.full(640 * len(units), 0.1, np.float32)

    written = Written("spoken_talk", "a < b?", "Yes.", "<i>No.</i>", "a b", "sad, low", "sad, low", 3)
    page = write_page(tmp_path, "step 7", [Shown(written, None, (1, 2), (3, 4, 5), Style())], Voice())  # type: ignore[arg-type]
    text = page.read_text()
    assert "&lt;i&gt;No.&lt;/i&gt;" in text and "a &lt; b?" in text
    assert text.count("<audio") == 2
    import soundfile

    assert soundfile.info(tmp_path / "000-answer.wav").duration == pytest.approx(0.12)


def test_two_processes_read_different_samples_and_keep_both_places(folder: Path, sets: Path) -> None:  # noqa: F811
    from emova.core.config import save_config
    from tests.train.test_parallel import run_module

    config = replace(on_sets(folder, sets, "two", 2), samples=SampleConfig(answers=0, losses_over=1))
    save_config(config, folder / "two.yaml")
    run_module(["emova_train.stages.program", str(folder / "two.yaml"), "run.parallel.strategy=ddp"], 2)
    places = [json.loads((folder / "two" / "checkpoint-2" / f"data-{rank}.json").read_text()) for rank in (0, 1)]
    assert [place["readers"] for place in places] == [2, 2]
    assert places[0]["states"] != places[1]["states"]
    rows = [row for row in read(folder / "two" / "metrics.jsonl") if row["kind"] == "train"]
    tried = sum(state["counts"][0] for place in places for state in place["states"].values())
    assert rows[-1]["samples_tried"] == tried and rows[-1]["mfu"] > 0
