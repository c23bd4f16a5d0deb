"""Laws of teaching a detokenizer other speakers' units: who hears what, what learns, and what stays as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.speech.detokenizer.u2s import U2SDetokenizer
from emova.speech.style import DEFAULT_STYLES, StylePrototypes
from emova.speech.tokenizer.s2u import S2UTokenizer
from emova_train.core.config import RunConfig
from emova_train.u2s.distil import UnitDistilConfig, UnitDistillation, UnitPairs, collate, phone_table, sentences, train
from tests.fixtures_speech import make_speech_detokenizer, make_speech_tokenizer

TEXTS = [f"sentence {number}" for number in range(8)]


def write(path: Path, rows: list[tuple[str, str, list[int]]]) -> str:
    written = [{"text": text, "voice": voice, "split": "train", "units": units} for text, voice, units in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in written))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> UnitDistilConfig:
    """The new tokenizer hears the canonical voice shifted by one digit, and another voice says all twice as slowly."""
    rng = np.random.default_rng(0)
    wanted = {text: rng.integers(0, 4096, 9 + number).tolist() for number, text in enumerate(TEXTS)}
    plain = {text: [unit ^ 1 for unit in units] for text, units in wanted.items()}
    slow = {text: np.repeat(units, 2).tolist() for text, units in plain.items()}
    make_speech_tokenizer().save_pretrained(tmp_path / "tokenizer")
    make_speech_detokenizer().save_pretrained(tmp_path / "teacher")
    generator = torch.Generator().manual_seed(0)
    StylePrototypes({style.key: torch.randn(8, generator=generator) for style in DEFAULT_STYLES.all}).save(
        tmp_path / "teacher"
    )
    heard = [(t, "hibari/female", u) for t, u in plain.items()] + [(t, "flite/rms", u) for t, u in slow.items()]
    rough = [(t, "hibari/female", u[1:]) for t, u in plain.items()]
    return UnitDistilConfig(
        teacher=str(tmp_path / "teacher"), tokenizer=str(tmp_path / "tokenizer"),
        tokenizer_before=str(tmp_path / "tokenizer"),
        wanted=[write(tmp_path / "before.jsonl", [(t, "hibari/female", u) for t, u in wanted.items()])],
        heard=[write(tmp_path / "parallel.jsonl", heard), write(tmp_path / "parallel_rough.jsonl", rough)],
        held_out=0.25,
        run=RunConfig(
            output_dir=str(tmp_path / "run"), max_steps=6, batch_size=4, learning_rate=1e-2, save_every=3, eval_every=3,
            log_every=1, precision="fp32",
        ),
    )  # fmt: skip


def untaught(config: UnitDistilConfig, student: str | Path = "") -> UnitDistillation:
    """The student as it starts, or as it was exported."""
    teacher = U2SDetokenizer.from_pretrained(config.teacher)
    return UnitDistillation(
        U2SDetokenizer.from_pretrained(student or config.teacher), teacher.vits.unit_encoder, config
    )


def test_every_way_of_hearing_a_sentence_is_as_long_as_the_teachers_and_in_its_order(config) -> None:
    table = phone_table(S2UTokenizer.from_pretrained(config.tokenizer))
    assert table.shape[0] == 4096 and np.allclose(np.linalg.norm(table, axis=1), 1, atol=1e-5)
    found = sentences(config)
    assert len(found) == len(TEXTS)
    for sentence in found:
        assert set(sentence.heard) == {"parallel_own", "parallel_flite", "parallel_rough_own"}
        [own], [flite] = sentence.heard["parallel_own"], sentence.heard["parallel_flite"]
        assert (own == np.array(sentence.wanted) ^ 1).all()
        # Random phone posteriors are all alike, so that a place may differ; its neighbours are the only choice.
        assert len(flite) == len(own) and set(flite) <= set(own) and np.mean(flite == own) > 0.5
        assert all(len(way) == len(sentence.wanted) for ways in sentence.heard.values() for way in ways)


def test_sentences_that_nobody_knows_are_refused(config, tmp_path) -> None:
    strange = write(tmp_path / "other.jsonl", [("another text", "flite/rms", [1, 2])])
    with pytest.raises(InputError, match="none of its sentences"):
        sentences(replace(config, heard=[strange]))
    with pytest.raises(InputError, match=r"missing\.jsonl: no units there"):
        sentences(replace(config, heard=[str(tmp_path / "missing.jsonl")]))
    with pytest.raises(InputError, match="name them"):
        train(replace(config, wanted=[]))


def test_a_student_that_hears_its_teachers_units_has_nothing_to_learn(config) -> None:
    module = untaught(config)
    pairs = UnitPairs(sentences(config), StylePrototypes.load(config.teacher), replace(config, own=1.0, digit_noise=0))
    batch = collate([pairs[index] for index in range(4)])
    assert module(**batch)["loss"].item() == 0
    assert module(**batch | {"heard": batch["heard"] ^ 1})["loss"].item() > 0


def test_what_stands_in_the_padding_changes_no_loss(config) -> None:
    module = untaught(config)
    pairs = UnitPairs(sentences(config), StylePrototypes.load(config.teacher), config, "parallel_own")
    batch = collate([pairs[0], pairs[7]])
    outside = batch["mask"].squeeze(1) == 0
    assert outside.any()
    other = {name: torch.where(outside, 77, batch[name]) for name in ("wanted", "heard")}
    losses = [module(**each)["loss"].item() for each in (batch, batch | other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_what_comes_a_little_late_costs_nothing_where_it_was_laid_along(config) -> None:
    module = untaught(replace(config, lag=3, smooth=5))
    wanted_BCF = torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(0))
    late_BCF, inside_BF = wanted_BCF.roll(2, dims=2), torch.ones(2, 40)
    inside_BF[1, 30:] = 0
    gaps_LBF = module._gaps(late_BCF, wanted_BCF, torch.ones_like(wanted_BCF), inside_BF)
    found_BF = gaps_LBF.gather(0, module._lags(gaps_LBF, torch.tensor([True, False])))[0]
    assert found_BF[0, 5:35].max() == 0 and found_BF[1, 5:25].min() > 0.1
    # At no lag it is the plain difference, and what lies behind a sentence's end is no frame of the teacher's.
    plain_BF = (late_BCF - wanted_BCF).square().mean(dim=1)
    size = (wanted_BCF.square().mean(dim=1) * inside_BF).sum() / inside_BF.sum()
    assert torch.allclose(gaps_LBF[3], plain_BF / size)
    assert torch.equal(gaps_LBF[6, 1, 27:30], gaps_LBF[3, 1, 27:30])


def test_only_the_unit_encoder_learns_and_it_comes_nearer(config) -> None:
    result = train(config)
    assert result.steps == 6 and "prior_parallel_flite" in result.eval_terms
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in
                     (config.teacher, Path(config.run.output_dir) / "export"))  # fmt: skip
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("vits.unit_encoder.") for name in changed)
    pairs = UnitPairs(sentences(config), StylePrototypes.load(config.teacher), config, "parallel_own")
    batch = collate([pairs[index] for index in range(len(pairs))])
    was, now = untaught(config), untaught(config, Path(config.run.output_dir) / "export")
    assert now(**batch)["loss"].item() < was(**batch)["loss"].item()


def test_the_shipped_config_loads() -> None:
    config = load_config(UnitDistilConfig, "configs/u2s/nano_distil.yaml")
    assert (config.teacher, config.wanted, config.heard) == (
        "emova/checkpoints/emova-nano/speech_detokenizer",
        ["data/nano/units_before/parallel.jsonl"],
        ["data/nano/units/parallel.jsonl"],
    )
