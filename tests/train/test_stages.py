"""The stages from end to end on a tiny model: what is frozen stays, what is trained moves, exports are read again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.model import EmovaConfig, EmovaForConditionalGeneration, EmovaProcessor
from emova.model.building import ImageShape, ModelConfig, ProjectorShape, TextShape
from emova.reply.interleaved import Ratio
from emova_train.core.config import RunConfig
from emova_train.data.interleaved import InterleavedConfig
from emova_train.stages.config import InitConfig, RatesConfig, StageConfig
from emova_train.stages.data import DataConfig
from emova_train.stages.losses.ctc import CTCConfig
from emova_train.stages.losses.registry import LossesConfig
from emova_train.stages.program import main, train
from emova_train.stages.start import build, freeze
from emova_train.stages.validation import SampleConfig, rates, word_edits
from tests.train.fixtures_recipe import write_recipe

ROOT = Path(__file__).parents[2]
STAGES = sorted((ROOT / "configs" / "stages").rglob("*.yaml"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_tokenizer, tiny_parts) -> Path:
    """Data, tokenizer and model shapes of a tiny run."""
    root = tmp_path_factory.mktemp("stages")
    write_recipe(root / "data")
    tiny_tokenizer.save_pretrained(root / "tokenizer")
    text = TextShape(hidden_size=32, layers=2, heads=4, kv_heads=2, ffn_width=48, context=1024)
    vision, _ = tiny_parts
    shapes = ModelConfig(text, vision, ProjectorShape(width=16, depth=1), ImageShape())
    save_config(shapes, root / "model.yaml")
    return root


def stage(folder: Path, name: str, **changes: object) -> StageConfig:
    run = RunConfig(
        output_dir=str(folder / name), max_steps=2, batch_size=1, threads=1, log_every=1, save_every=2, eval_every=2,
        precision="fp32", weight_decay=0.0,
    )  # fmt: skip
    init = InitConfig(model=str(folder / "model.yaml"), tokenizer=str(folder / "tokenizer"))
    samples = SampleConfig(answers=1, spoken=1, losses_over=1, max_tokens=6, max_units=6)
    data = DataConfig(root=str(folder / "data"), pack_tokens=300, max_tokens=400)
    base = StageConfig(run=run, init=init, data=data, samples=samples, allow_random=True)
    return replace(base, **changes)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = EmovaForConditionalGeneration.from_pretrained(folder / "export", dtype=torch.float32)
    return dict(model.named_parameters())


def test_three_stages_in_a_row(folder: Path) -> None:
    data = stage(folder, "x").data
    zero = stage(
        folder, "zero", rates=RatesConfig(llm=1e-3), data=replace(data, mixture={"talk_text": 1, "asr": 1, "tts": 1})
    )
    result = train(zero)
    assert result.steps == 2 and {"text", "units", "text_accuracy", "asr_wer"} <= result.eval_terms.keys()
    first = weights(folder / "zero")

    one = stage(
        folder,
        "one",
        init=InitConfig(checkpoint=str(folder / "zero" / "export")),
        rates=RatesConfig(projector=1e-3),
        data=replace(data, mixture={"caption": 1, "picture_text": 1}),
    )
    train(one)
    second = weights(folder / "one")
    changed = {name for name, tensor in second.items() if not torch.equal(tensor, first[name])}
    assert changed and all(".projector." in name for name in changed)

    two = stage(
        folder,
        "two",
        init=InitConfig(checkpoint=str(folder / "one" / "export")),
        rates=RatesConfig(llm=1e-3, projector=1e-3, vision=1e-4, vision_share=0.5),
        data=replace(data, mixture={"caption": 1, "asr": 1, "tts": 1}),
    )
    train(two)
    third = weights(folder / "two")
    changed = {name for name, tensor in third.items() if not torch.equal(tensor, second[name])}
    tower = {name for name in changed if ".vision_tower." in name}
    assert any(".blocks.1." in name for name in tower) and not any(".blocks.0." in name for name in tower)
    assert not any("patch_embed" in name for name in tower)
    assert any("embed_tokens" in name for name in changed)

    three = stage(
        folder,
        "three",
        init=InitConfig(checkpoint=str(folder / "two" / "export")),
        rates=RatesConfig(llm=1e-3, projector=1e-3, vision=1e-3),
        losses=LossesConfig(ctc=CTCConfig(weight=0.5, layer=1)),
        data=replace(
            data,
            mixture={"spoken_talk": 1, "spoken_picture": 1, "interleaved_picture": 1},
            conversations=replace(data.conversations, interleaved=InterleavedConfig(ratio=Ratio(5, 20))),
        ),
    )
    result = train(three)
    fourth = weights(folder / "three")
    assert any("patch_embed" in name for name in fourth if not torch.equal(fourth[name], third[name]))
    assert {"transcript", "answer", "style", "units", "ctc", "spoken_picture_wer"} <= result.eval_terms.keys()
    rows = [json.loads(line) for line in (folder / "three" / "samples.jsonl").read_text().splitlines()]
    assert {row["task"] for row in rows} == {"spoken_talk", "spoken_picture", "interleaved_picture"}
    assert all(row["units"] > 0 and row["style"] and row["expected"] for row in rows)
    assert EmovaConfig.from_pretrained(folder / "three" / "export").reply_config == {
        "kind": "json",
        "interleaved": {"text_tokens": 5, "units": 20},
    }
    assert EmovaConfig.from_pretrained(folder / "two" / "export").reply_config == {"kind": "json"}
    processor = EmovaProcessor.from_pretrained(folder / "three" / "export")
    assert processor.token_ids.codebook_size == 4096


def test_every_part_has_its_rate(folder: Path) -> None:
    model, _ = build(stage(folder, "rates"))
    parts = freeze(model, RatesConfig(llm=1.0, vision=1.0, vision_share=0.5))
    names = {part: [name for name, _ in own] for part, own in parts.items()}
    assert set(names) == {"llm", "vision"}
    assert all(parameter.requires_grad == (name in sum(names.values(), [])) for name, parameter in
               model.named_parameters())  # fmt: skip
    with pytest.raises(InputError, match="every part is frozen"):
        freeze(model, RatesConfig())


def test_what_is_missing_is_named(folder: Path, monkeypatch, capsys, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint there"):
        train(stage(folder, "a", init=InitConfig(checkpoint=str(tmp_path / "nothing"))))
    with pytest.raises(InputError, match="no tokenizer there"):
        train(stage(folder, "a", init=InitConfig(model=str(folder / "model.yaml"), tokenizer=str(tmp_path))))
    monkeypatch.setattr("sys.argv", ["stages", str(STAGES[0]), "run.max_step=3"])
    assert main() == 2
    assert "max_step" in capsys.readouterr().err


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_shipped_configs_are_whole(path: Path) -> None:
    config = load_config(StageConfig, path)
    if path.stem == "own":  # its data are the user's
        assert not config.data.mixture and not config.data.sets
        return
    assert config.data.mixture and config.run.output_dir.startswith("runs/")
    assert abs(sum(config.data.mixture.values()) - 1) < 1e-9
    trained = {name for name in ("llm", "projector", "vision") if getattr(config.rates, name) > 0}
    expected = {
        "stage0": {"llm"},
        "stage1": {"projector"},
        "stage2_frozen_llm": {"projector", "vision"},
        "stage3_aloud": {"llm"},
    }
    assert trained == expected.get(path.stem, {"llm", "projector", "vision"})


def test_rates_of_answers() -> None:
    from emova_train.stages.sample_page import Written

    right = Written("spoken_talk", "how are you", "Fine.", "fine", "how are we", "happy, low", "happy, low")
    wrong = Written("spoken_talk", "a b", "Yes.", "No.", "a b", "sad, low", "happy, low")
    assert rates([right, wrong]) == {"spoken_talk_exact": 0.5, "spoken_talk_style": 0.5, "spoken_talk_wer": 0.2}
    assert word_edits(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert word_edits([], ["a"]) == 1 and word_edits(["a"], []) == 1
