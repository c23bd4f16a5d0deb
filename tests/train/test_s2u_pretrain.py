"""SPIRAL pre-training: what the loss sees, what the teacher is, collapse, and that a run goes on and is exported."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.speech.tokenizer.phone_decoder import PhoneDecoderConfig
from emova.speech.tokenizer.s2u import S2UConfig, S2UTokenizer
from emova.speech.tokenizer.spiral import SpiralConvConfig, SpiralStageConfig
from emova_train.core import checkpointing
from emova_train.core.config import ParallelConfig, RunConfig
from emova_train.core.metrics import read
from emova_train.distributed.world import World
from emova_train.s2u.conditions import CODECS, Conditions, coded, other_voice
from emova_train.s2u.contrast import (
    CollapseConfig,
    CollapseError,
    ContrastConfig,
    Predictor,
    Pretraining,
    contrast,
    masked,
    spread,
    stretches,
)
from emova_train.s2u.data import ClipStore, SourceConfig, TwoViews, Views
from emova_train.s2u.pretrain import PretrainConfig, cached, train
from emova_train.s2u.program import S2UTrainConfig, build
from emova_train.s2u.screening import holds_speech, is_narrow

TINY = S2UConfig(
    stages=[
        SpiralStageConfig([SpiralConvConfig(16, 3, 1), SpiralConvConfig(16, 3, 2)], 1, 2, 32, positions=True),
        SpiralStageConfig([SpiralConvConfig(16, 2, 2)], 1, 2, 32),
    ],
    decoder=PhoneDecoderConfig(width=16, layers=1, heads=2, ffn=16),
)
SMALL = ContrastConfig(width=8, distractors=5, max_shift=3, mask_frames=4)


def voice(number: int, seconds: float = 1.2, rate: int = 16000) -> np.ndarray:
    """Something like speech: a buzz whose loudness comes and goes."""
    time = np.arange(int(rate * seconds)) / rate
    pitch = 110 + 12 * number
    buzz = sum(np.cos(2 * np.pi * pitch * k * time) / k for k in range(1, 40))
    hiss = np.random.default_rng(number).standard_normal(len(time)) * 0.02
    return (0.1 * (buzz + hiss) * np.clip(np.sin(9 * time + number), 0.01, 1)).astype(np.float32)


def write_shard(path: Path, clips: dict[str, np.ndarray], **meta: object) -> None:
    with tarfile.open(path, "w") as tar:
        for key, samples in clips.items():
            flac = io.BytesIO()
            soundfile.write(flac, samples, 16000, format="FLAC")
            for kind, data in (("flac", flac.getvalue()), ("json", json.dumps({"text": "", **meta}).encode())):
                member = tarfile.TarInfo(f"{key}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Two shards of recordings without phones."""
    for number in range(2):
        clips = {f"clip{number}{clip}": voice(3 * number + clip, 1.0 + 0.1 * clip) for clip in range(3)}
        write_shard(tmp_path / f"web-train-{number:06d}.tar", clips, family="web")
    return str(tmp_path / "web-train-*.tar")


def config_of(tmp_path: Path, shards: str, name: str = "run", max_steps: int = 4) -> PretrainConfig:
    run = RunConfig(
        str(tmp_path / name),
        max_steps=max_steps,
        batch_size=1,
        eval_every=4,
        save_every=2,
        log_every=1,
        precision="fp32",
    )
    return PretrainConfig(
        model=TINY, run=run, train=[SourceConfig(shards)],
        validation=[shards], cache=str(tmp_path / "cache"), batch_seconds=3.0, contrast=SMALL,
    )  # fmt: skip


def training_of(collapse: CollapseConfig | None = None, accumulation: int = 1) -> Pretraining:
    torch.manual_seed(0)
    return Pretraining(S2UTokenizer(TINY), SMALL, collapse or CollapseConfig(), accumulation, 100, World())


def batch_of(tmp_path: Path, shards: str) -> dict[str, torch.Tensor]:
    store = ClipStore([shards], tmp_path / "cache", labelled=False)
    return TwoViews(store, [1.0], 1, 6.0, 0, Views(rough=Conditions(), heard_only=True))[0]


# The objective


def test_the_loss_is_least_where_each_unit_is_its_target_and_at_chance_where_nothing_tells_them_apart() -> None:
    torch.manual_seed(0)
    wanted, units = torch.randn(3, 40, 16), torch.tensor([40, 25, 2])
    best, right = contrast(wanted, wanted, units, 20, 0.1)
    chance, _ = contrast(torch.ones(3, 40, 16), torch.ones(3, 40, 16), units, 20, 0.1)
    wrong, told = contrast(wanted.roll(1, 1), wanted, units, 20, 0.1)
    assert float(best) < 0.2 and float(right) > 0.95
    assert float(chance) == pytest.approx(np.log(21), abs=1e-4)
    assert float(wrong) > float(chance) and float(told) < 0.2


def test_distractors_come_from_the_same_recording() -> None:
    """What another recording holds changes nothing, nor does what lies behind a recording's end."""
    torch.manual_seed(0)
    made, wanted, units = torch.randn(2, 30, 8), torch.randn(2, 30, 8), torch.tensor([30, 12])
    other = wanted.clone()
    other[1, 12:] = 7.0
    torch.manual_seed(1)
    before, _ = contrast(made, wanted, units, 10, 0.3)
    torch.manual_seed(1)
    after, _ = contrast(made, other, units, 10, 0.3)
    assert torch.equal(before, after)


def test_spread_knows_collapse_in_all_its_forms() -> None:
    torch.manual_seed(0)
    inside = torch.ones(4, 50, dtype=torch.bool)
    healthy = spread(torch.randn(4, 50, 16), inside)
    constant = spread(torch.ones(4, 50, 16), inside)
    by_recording = spread(torch.randn(4, 1, 16).expand(4, 50, 16), inside)
    line = spread(torch.randn(4, 50, 1) * torch.randn(16), inside)
    assert float(healthy.variance) > 0.9 and float(healthy.perplexity) > 12
    assert float(constant.variance) < 1e-4 and float(by_recording.variance) < 1e-4
    assert float(line.variance) > 0.5 and float(line.perplexity) < 1.1


def test_masks_hide_about_their_share_and_nothing_behind_the_end() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([200, 100] * 50)
    hidden = stretches(lengths, 200, 0.5, 20)
    assert 0.3 < float(hidden[::2].float().mean()) < 0.5  # stretches overlap: 1 - exp(-0.5) of them
    assert not bool(hidden[1::2, 100:].any())
    assert not bool(stretches(lengths, 200, 0.0, 20).any())
    mel = torch.randn(6, 80, 200)
    config = replace(SMALL, mask_share=0.0, band_share=0.0)
    assert torch.equal(masked(mel, torch.full((6,), 200), config), mel)
    assert not torch.equal(masked(mel, torch.full((6,), 200), SMALL), mel)


def test_the_predictor_sees_nothing_behind_a_recordings_end() -> None:
    torch.manual_seed(0)
    predict, frames, units = Predictor(8, 5, 2).eval(), torch.randn(2, 20, 8), torch.tensor([20, 9])
    inside = torch.arange(20)[None] < units[:, None]
    changed = frames.clone()
    changed[1, 9:] = 5.0
    a, b = predict(frames, units, inside), predict(changed, units, inside)
    assert torch.allclose(a[1, :9], b[1, :9]) and torch.allclose(a[0], b[0])


# Student and teacher


def test_the_teacher_follows_once_a_step_and_learns_nothing_itself(tmp_path: Path, shards: str) -> None:
    training = training_of(accumulation=2)
    batch = batch_of(tmp_path, shards)
    first = {name: value.clone() for name, value in training.teacher.named_parameters()}
    training(**batch)["loss"].backward()
    assert all(parameter.grad is None for parameter in training.teacher.parameters())
    assert [name for name, p in training.named_parameters() if p.requires_grad and p.grad is None] == []
    with torch.no_grad():
        for parameter in training.student.parameters():
            parameter.add_(1.0)
    training(**batch)  # the second pass of the same step
    assert all(torch.equal(value, first[name]) for name, value in training.teacher.named_parameters())
    training(**batch)  # the first of the next
    moved = 1 - training.momentum(1)
    for name, value in training.teacher.named_parameters():
        assert torch.allclose(value, first[name] + moved, atol=1e-6), name


def test_momentum_rises_to_one() -> None:
    training = training_of()
    momenta = [training.momentum(step) for step in (0, 25, 50, 100, 200)]
    assert momenta[0] == SMALL.momentum and momenta == sorted(momenta) and momenta[3] == momenta[4] == 1.0


def test_padding_shifts_positions_and_not_what_is_taught(tmp_path: Path, shards: str) -> None:
    """With attention within reach of its own frame alone the targets are those of the unpadded recording, in place."""
    torch.manual_seed(0)
    stages = [SpiralStageConfig([SpiralConvConfig(16, 4, 4)], 0, 2, 32)]
    training = Pretraining(S2UTokenizer(replace(TINY, stages=stages)), SMALL, CollapseConfig(), 1, 10, World())
    mel, units = torch.randn(2, 80, 80), torch.tensor([20, 20])
    plain = training.eval()._teach(mel, units, torch.zeros(2, dtype=torch.long))
    training.train()
    for seed in range(4):
        torch.manual_seed(seed)
        shifted = training._teach(mel, units, torch.zeros(2, dtype=torch.long))
        assert shifted.shape == plain.shape and torch.allclose(shifted[:, 1:-1], plain[:, 1:-1], atol=1e-5)


def test_a_collapsed_teacher_ends_the_run_and_says_so(tmp_path: Path, shards: str) -> None:
    training = training_of(CollapseConfig(grace=2, patience=3))
    batch = batch_of(tmp_path, shards)
    training.project.weight.data.zero_()  # all targets are the bias
    training.teacher_project.weight.data.zero_()
    terms = [training(**batch) for _ in range(4)]
    assert float(terms[-1]["target_variance"]) < 1e-4
    with pytest.raises(CollapseError, match="the teacher has collapsed.*the last checkpoint is untouched"):
        training(**batch)


def test_a_run_that_collapses_keeps_its_checkpoint(tmp_path: Path, shards: str) -> None:
    config = replace(config_of(tmp_path, shards), collapse=CollapseConfig(min_variance=2.0, grace=2, patience=1))
    with pytest.raises(CollapseError):
        train(config)
    last = checkpointing.latest(config.run.output_dir)
    assert last is not None and checkpointing.step_of(last) == 2


# Runs


def test_a_resumed_run_equals_an_uninterrupted_one_and_its_export_starts_the_supervised_step(
    tmp_path: Path, shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = config_of(tmp_path, shards), config_of(tmp_path, shards, "cut")
    result = train(whole)
    assert result.steps == 4 and {"loss", "accuracy", "target_variance"} <= set(result.eval_terms)
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    train(cut)
    assert "other conditions" not in capsys.readouterr().err
    states = [load_file(tmp_path / name / "checkpoint-4" / "model.safetensors") for name in ("run", "cut")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    rows = [[row for row in read(Path(each.run.output_dir) / "metrics.jsonl") if row["kind"] == "train"]
            for each in (whole, cut)]  # fmt: skip
    for name in ("loss", "target_variance", "target_perplexity"):
        assert [row[name] for row in rows[0]] == [row[name] for row in rows[1]], name
    exported = S2UTokenizer.from_pretrained(tmp_path / "run" / "export")
    started = build(S2UTrainConfig(replace(TINY, bottleneck=8), start_from=str(tmp_path / "run" / "export")))
    for name, value in exported.encoder.state_dict().items():
        assert torch.equal(started.encoder.state_dict()[name], value), name
    fresh = S2UTokenizer(TINY).encoder.state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in exported.encoder.state_dict().items())


def test_a_run_that_goes_on_otherwise_says_so_and_may_export_its_teacher(
    tmp_path: Path, shards: str, capsys: pytest.CaptureFixture[str]
) -> None:
    train(config_of(tmp_path, shards, max_steps=2))
    assert "other conditions" not in capsys.readouterr().err
    changed = replace(
        config_of(tmp_path, shards, max_steps=3), conditions=Conditions(noise=0.5),
        contrast=replace(SMALL, max_shift=2), export="teacher",
    )  # fmt: skip
    assert train(changed).steps == 3
    told = capsys.readouterr().err
    assert "goes on under other conditions" in told
    assert "noise: 0.8 -> 0.5" in told and "contrast.max_shift: 3 -> 2" in told
    exported = S2UTokenizer.from_pretrained(tmp_path / "run" / "export").encoder.state_dict()
    kept = load_file(tmp_path / "run" / "checkpoint-3" / "model.safetensors")
    assert all(torch.equal(kept[f"teacher.{name}"], value) for name, value in exported.items())


def test_wrong_settings_are_refused(tmp_path: Path, shards: str) -> None:
    with pytest.raises(InputError, match="names no shards"):
        train(PretrainConfig(run=RunConfig(str(tmp_path / "run"))))
    with pytest.raises(InputError, match="follows whole weights"):
        PretrainConfig(run=RunConfig(parallel=ParallelConfig(strategy="fsdp")))
    with pytest.raises(InputError, match="export=both"):
        PretrainConfig(export="both")
    with pytest.raises(InputError, match="contrast.momentum"):
        ContrastConfig(momentum=1.0)
    with pytest.raises(InputError, match="conditions.codec"):
        Conditions(codec=1.5)


def test_shipped_configs_fit_together() -> None:
    for name in ("nano", "paper"):
        before = load_config(PretrainConfig, f"{name}-pretrain", [], kind="s2u")
        after = load_config(S2UTrainConfig, "nano-pretrained" if name == "nano" else name, [], kind="s2u")
        assert before.model == after.model
        assert after.start_from == f"{before.run.output_dir}/export" and not after.whisper


# What is heard


def test_recordings_without_speech_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    time = np.arange(24000) / 16000
    others = {
        "silence": np.zeros(24000), "hiss": np.random.default_rng(0).standard_normal(24000) * 0.1,
        "hum": 0.2 * np.sin(2 * np.pi * 50 * time), "gated": np.random.default_rng(1).standard_normal(24000)
        * 0.1 * (time % 0.5 < 0.25), "short": voice(0, 0.3), "long": voice(1, 21.0),
    }  # fmt: skip
    clips = {name: np.asarray(samples, np.float32) for name, samples in others.items()}
    write_shard(tmp_path / "web-000000.tar", {**clips, "a": voice(2), "b": voice(3)}, language="de")
    pattern = str(tmp_path / "web-*.tar")
    store = ClipStore([pattern], tmp_path / "cache", labelled=False)
    assert [clip.key for clip in store.clips] == ["a", "b"]
    assert store.left_out == {"no speech in it": 4, "too long, or too short for what it holds": 2}
    assert len(cached([pattern], config_of(tmp_path, pattern), World()).clips) == 2
    assert "left out 4: no speech in it" in capsys.readouterr().err
    write_shard(tmp_path / "none-000000.tar", clips)
    with pytest.raises(InputError, match="no recording with speech in it"):
        cached([str(tmp_path / "none-*.tar")], config_of(tmp_path, pattern), World())


def test_a_labelled_set_of_another_language_is_told(tmp_path: Path) -> None:
    """Whose phones the inventory lacks; and what has phones and sounds like none stays, and is named."""
    write_shard(tmp_path / "s-000000.tar", {"a": voice(0)}, phones=["ʁ", "ø"])
    write_shard(tmp_path / "s-000001.tar", {"b": voice(1)}, phones=["h", "O"])
    hiss = np.random.default_rng(0).standard_normal(24000).astype(np.float32) * 0.1
    write_shard(tmp_path / "s-000002.tar", {"c": hiss}, phones=["h", "O"])
    store = ClipStore([str(tmp_path / "s-*.tar")], tmp_path / "cache")
    assert [clip.key for clip in store.clips] == ["b", "c"]
    told = " ".join(store.told())
    assert "left out 1: none of its phones is in the inventory" in told and "2 phones of 2 kinds" in told
    assert "1 of 2 have phones and do not sound like speech" in told
    write_shard(tmp_path / "u-000000.tar", {"d": voice(2)})
    with pytest.raises(InputError, match="have no phones; convert"):
        ClipStore([str(tmp_path / "u-*.tar")], tmp_path / "cache")


def test_a_telephones_band_is_told_and_serves(tmp_path: Path) -> None:
    import soxr

    wide = voice(0, 2.0)
    narrow = soxr.resample(soxr.resample(wide, 16000, 8000), 8000, 16000).astype(np.float32)
    assert is_narrow(narrow) and not is_narrow(wide) and not is_narrow(np.zeros(16000, np.float32))
    assert holds_speech(narrow) and holds_speech(wide) and not holds_speech(np.zeros(100, np.float32))
    write_shard(tmp_path / "web-000000.tar", {"a": narrow, "b": wide})
    store = ClipStore([str(tmp_path / "web-*.tar")], tmp_path / "cache", labelled=False)
    assert len(store.clips) == 2 and any("1 of 2 hold nothing above 4 kHz" in line for line in store.told())


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: f"{codec.subtype}-{codec.rate}")
def test_codecs_keep_the_time_axis(codec) -> None:
    click = np.zeros(16000, np.float32)
    click[8000:8160] = np.hanning(160) * 0.8
    heard = coded(click, codec)
    level = np.convolve(np.square(heard), np.ones(160), "same")
    assert heard.shape == click.shape and abs(int(level.argmax()) - 8080) < 80


def test_another_voice_is_higher_or_lower_and_says_the_same_at_the_same_time() -> None:
    sound = voice(2, 2.0)

    def pitch(samples: np.ndarray) -> float:
        frame = samples[3000:7096] * np.hanning(4096)
        correlation = np.fft.irfft(np.square(np.abs(np.fft.rfft(frame, 16384))))[: 16000 // 60]
        return 16000 / (int(correlation[60:].argmax()) + 60)

    loud = [np.convolve(np.square(each), np.ones(800), "same") for each in (sound, other_voice(sound, 1.25, 1.0))]
    assert np.corrcoef(np.stack(loud))[0, 1] > 0.9
    for factor in (0.8, 1.0, 1.25):
        changed = other_voice(sound, factor, 1.0)
        assert changed.shape == sound.shape and changed.dtype == np.float32
        assert pitch(changed) == pytest.approx(134 * factor, rel=0.06)


def test_conditions_are_a_function_of_the_generator_and_say_what_changed() -> None:
    sound, babble = voice(0), voice(1)
    for seed in range(6):
        a, b = (Conditions()(sound, babble, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(a, b) and a.shape == sound.shape and a.dtype == np.float32 and np.abs(a).max() <= 1
    none = Conditions(noise=0, codec=0, voice=0)
    assert np.array_equal(none(sound, babble, np.random.default_rng(0)), sound)
    assert Conditions().changes(none) == ["noise: 0 -> 0.8", "codec: 0 -> 0.2", "voice: 0 -> 0.4"]
