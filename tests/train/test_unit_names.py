"""Units of two tokenizers are never mixed: not in training, not in a checkpoint, not when it is loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from emova.checkpoint.loading import load_parts
from emova.cli.main import main
from emova.core.errors import InputError
from emova.model import EmovaForConditionalGeneration
from emova.speech.tokenizer.units import FILE, name_units, units_of
from emova_train.export.assemble import AssembleConfig, assemble
from emova_train.planning.dry_run import Machine, plan
from emova_train.stages.program import train
from tests.train.fixtures_sets import write_sets
from tests.train.test_conversations import on_sets
from tests.train.test_stages import folder, stage  # noqa: F401  (a fixture)


def mark(folder: Path, units: str) -> None:  # noqa: F811
    """Say in a set's list whose units it holds."""
    path = folder / "progress.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "units": units}))


def test_a_stage_learns_the_units_of_one_tokenizer(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    sets = write_sets(tmp_path / "sets")
    base = on_sets(folder, sets, "units", max_steps=1, epochs=0.0)
    both = replace(base, data=replace(base.data, sets={"speech": 1.0, "omni": 1.0}))
    mark(sets / "speech", "one")
    assert not plan(both, Machine(1)).problems  # what says nothing is taken as it is
    mark(sets / "omni", "release")
    words = "speech holds units of the tokenizer one, omni those of release"
    assert [line.split(":")[0] for line in plan(both, Machine(1)).problems] == [words]
    with pytest.raises(InputError, match=words):
        train(both)
    alone = replace(both, data=replace(base.data, sets={"speech": 1.0, "omni": 0.0}))
    train(alone)
    export = folder / "units" / "export"
    assert EmovaForConditionalGeneration.from_pretrained(export).config.unit_tokenizer == "one"
    later = replace(both, init=replace(base.init, checkpoint=str(export)))
    later = replace(later, data=replace(base.data, sets={"omni": 1.0}))
    with pytest.raises(InputError, match="omni holds units of the tokenizer release, .* those of one"):
        train(later)


def test_a_copy_in_fewer_bits_keeps_its_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    source = tiny_checkpoint / "speech_tokenizer"
    copy = shutil.copytree(source, tmp_path / "copy")
    assert units_of(copy) == units_of(source)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes() + b" ")
    assert units_of(copy) != units_of(source)
    name_units(copy, units_of(source))
    assert units_of(copy) == units_of(source)
    (copy / FILE).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        units_of(copy)
    with pytest.raises(InputError, match="give the folder of a speech tokenizer"):
        units_of(tmp_path)


def learnt(checkpoint: Path, units: str) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "unit_tokenizer": units}))


def test_assembling_and_loading_refuse_to_mix(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    own = units_of(model / "speech_tokenizer")
    learnt(model, own)
    config = AssembleConfig(model, model, model, tmp_path / "out", tokenizer_storage="int8", max_mib=500)
    assemble(config)
    assert units_of(tmp_path / "out" / "speech_tokenizer") == own  # although its weights are rounded
    load_parts(tmp_path / "out")
    learnt(model, "other")
    with pytest.raises(InputError, match=f"has learnt the units other, the speech tokenizer makes {own}"):
        assemble(replace(config, out=tmp_path / "mixed"))
    assert not (tmp_path / "mixed").exists()
    learnt(tmp_path / "out", "other")
    with pytest.raises(InputError, match="has learnt the units other"):
        load_parts(tmp_path / "out")
    learnt(model, own)
    name_units(model / "speech_detokenizer", "other")
    with pytest.raises(InputError, match="has learnt the units other"):
        assemble(replace(config, out=tmp_path / "mixed"))


def test_tokenised_sets_say_whose_units_they_hold(tmp_path: Path) -> None:
    sources = Path(__file__).parents[1] / "fixtures" / "sources"
    root = ["--root", str(tmp_path), "--max-skip-rate", "1"]
    assert main(["data", "convert", "librispeech", "--from", str(sources / "librispeech"), *root]) == 0
    assert main(["data", "tokenise", "librispeech", "--tokenizer", "emova-nano", *root[:2]]) == 0

    def units(name: str) -> str:
        return str(json.loads((tmp_path / "sets" / name / "progress.json").read_text())["units"])

    from emova.checkpoint.loading import SHIPPED

    assert units("librispeech") == "" and units("librispeech-units") == units_of(
        SHIPPED / "emova-nano" / "speech_tokenizer"
    )
