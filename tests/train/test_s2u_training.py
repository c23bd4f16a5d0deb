"""S2U training: what a batch is, what the losses see, and that a few steps of a whole run export a tokenizer."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import lfilter

from emova.core.errors import InputError
from emova.speech.features import MelConfig
from emova.speech.tokenizer.phone_decoder import PhoneDecoderConfig
from emova.speech.tokenizer.phones import BLANK, PHONES, PhoneInventory, collapse, describe_unknown, is_mark
from emova.speech.tokenizer.s2u import S2UConfig, S2UTokenizer
from emova.speech.tokenizer.spiral import SpiralConvConfig, SpiralStage, SpiralStageConfig
from emova.speech.tokenizer.whisper_init import read_ctranslate2, whisper_stage_state
from emova_train.core.config import RunConfig
from emova_train.s2u.augment import hide_bands, warp_matrix
from emova_train.s2u.data import (
    IGNORED,
    Clip,
    ClipStore,
    SourceConfig,
    TwoViews,
    Views,
    faster_clip,
    frame_labels,
    perturb,
    warp_formants,
)
from emova_train.s2u.distil import DistilConfig, Distillation
from emova_train.s2u.distil import train as distil
from emova_train.s2u.program import S2UTrainConfig, S2UTraining, build, phone_errors, train

TINY = S2UConfig(
    stages=[
        SpiralStageConfig([SpiralConvConfig(16, 3, 1), SpiralConvConfig(16, 3, 2)], 1, 2, 32, positions=True),
        SpiralStageConfig([SpiralConvConfig(16, 2, 2)], 1, 2, 32),
    ],
    decoder=PhoneDecoderConfig(width=16, layers=1, heads=2, ffn=16),
)


@pytest.fixture
def shards(tmp_path: Path) -> str:
    """Two shards of three clips: one with an alignment, one without, one at another sample rate."""
    rng = np.random.default_rng(0)
    for number in range(2):
        with tarfile.open(tmp_path / f"s2u-train-{number:06d}.tar", "w") as tar:
            for clip in range(3):
                rate = 24000 if clip == 2 else 16000
                flac = io.BytesIO()
                soundfile.write(flac, rng.standard_normal(rate) * 0.1, rate, format="FLAC")
                meta = {
                    "phones": ["h", "ə", "ˈ", "l", "O"], "family": "one" if clip else "two", "voice": "v",
                    "alignment": None if clip else [["h", 0.1, 0.2], ["ə", 0.2, 0.3], ["l", 0.3, 0.5], ["O", 0.5, 0.9]],
                }  # fmt: skip
                for kind, data in (("flac", flac.getvalue()), ("json", json.dumps(meta).encode())):
                    member = tarfile.TarInfo(f"clip{number}{clip}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return str(tmp_path / "s2u-train-*.tar")


def test_phone_names_invert_and_unknown_marks_are_left_out() -> None:
    inventory = PhoneInventory()
    assert len(set(PHONES)) == len(PHONES) == inventory.classes - 1
    assert inventory.names(inventory.ids(PHONES).ids) == list(PHONES)
    ids, unknown = inventory.ids(["ˈ", "g", "O", ",", "zh:ang1", "zh:ang5"])
    assert inventory.names(ids) == ["ɡ", "O", "zh:ang1", "zh:ang5"] and not unknown
    assert collapse([0, 3, 3, 0, 3, 5, 5, 0]) == [3, 3, 5]


FRENCH = "bɔ̃ʒuʁ, ʒə nə sɛ pɑ lœvʁ ø yn ɲ ɥ kɔmɑ̃ sa va"  # what a French text to phones gives


def test_phones_that_the_inventory_lacks_are_counted_and_a_language_is_added_by_the_config() -> None:
    sounds = [symbol for symbol in FRENCH if not is_mark(symbol)]
    ids, unknown = PhoneInventory().ids(FRENCH)
    assert unknown.total() + len(ids) == len(sounds), "every sound is mapped or counted"
    assert dict(unknown) == {"ʁ": 2, "œ": 1, "ø": 1, "y": 1, "ɲ": 1, "ɥ": 1, "\u0303": 2}
    line = describe_unknown(unknown)
    assert "9 phones of 7 kinds" in line and "ʁ 2" in line and "\n" not in line and describe_unknown(Counter()) == ""
    french = S2UConfig(stages=TINY.stages, phones=[*PHONES, *unknown])
    model = S2UTokenizer(french)
    assert not model.inventory.ids(FRENCH).unknown
    assert model.inventory.names(model.inventory.ids(FRENCH).ids) == sounds
    assert model.phone_decoder.ctc_head.out_features == 2 * (len(PHONES) + len(unknown) + 1)
    # A spelling that the inventory has for itself is not taken for its English neighbour.
    assert PhoneInventory(("e", "ɛ")).ids("eɛ").ids == [1, 2] and PhoneInventory(("ɛ",)).ids("eɛ").ids == [1, 1]
    for wrong in ((), ("a", "a"), ("a", ""), ("a", "ˈ")):
        with pytest.raises(InputError, match="phones"):
            PhoneInventory(wrong)


def test_the_store_decodes_once_to_16_khz(shards: str, tmp_path: Path) -> None:
    store = ClipStore([shards], tmp_path / "cache")
    assert [clip.length for clip in store.clips] == [16000] * 6
    assert all(len(clip.phones) == 4 for clip in store.clips)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    again = ClipStore([shards], tmp_path / "cache")
    assert again.clips == store.clips
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == first
    with pytest.raises(InputError, match="no such shards"):
        ClipStore([str(tmp_path / "nothing-*.tar")], tmp_path / "cache")


def test_frame_labels_follow_the_clip_when_it_is_moved() -> None:
    clip = Clip("k", 0, 0, 6400, (5, 7), ((5, 640, 1280), (7, 1280, 6400)), "f", "v")
    labels = frame_labels(clip, lead=0, total=7040).tolist()
    assert labels == [BLANK] * 2 + [5] * 2 + [7] * 16 + [BLANK] * 2
    assert frame_labels(clip, lead=640, total=7680).tolist() == [BLANK] * 2 + labels
    unknown = Clip("k", 0, 0, 640, (5,), None, "f", "v")
    assert frame_labels(unknown, 0, 640).tolist() == [IGNORED] * 2


def test_batches_are_a_function_of_seed_and_number(shards: str, tmp_path: Path) -> None:
    store = ClipStore([shards], tmp_path / "cache")
    one, two = (TwoViews(store, [1.0], 7, 3.5, seed=3) for _ in range(2))
    assert len(one) == 7
    two[2]  # another item before does not matter
    for name, tensor in one[5].items():
        assert torch.equal(tensor, two[5][name]), name
    batch = one[5]
    pairs = len(batch["phones"])
    assert batch["samples"].shape[0] == 2 * pairs
    assert bool((batch["lengths"] % 640 == 0).all())
    assert batch["labels"].shape[1] * 320 == batch["samples"].shape[1]


def test_perturbed_speech_keeps_its_time_axis() -> None:
    rng = np.random.default_rng(0)
    click = np.zeros(16000, dtype=np.float32)
    click[8000] = 1.0
    for _ in range(10):
        out = perturb(click, rng.standard_normal(3000).astype(np.float32) * 0.1, rng)
        assert out.shape == click.shape and np.isfinite(out).all() and np.abs(out).max() <= 1
        assert abs(int(np.abs(out).argmax()) - 8000) < 160


def test_faster_speech_is_shorter_and_higher_and_its_phones_stay_on_it() -> None:
    times = np.arange(16000) / 16000
    tone = np.where(times < 0.5, 0.0, np.sin(2 * np.pi * 400 * times)).astype(np.float32)
    clip = Clip("k", 0, 0, 16000, (5, 7), ((5, 0, 8000), (7, 8000, 16000)), "f", "v")
    quick, samples = faster_clip(clip, tone, 1.25)
    assert quick.length == len(samples) == 12800 and quick.alignment == ((5, 0, 6400), (7, 6400, 12800))
    assert np.abs(samples[:6000]).max() < 0.05 < np.abs(samples[6800:]).max()
    spectrum = np.abs(np.fft.rfft(samples[6800:11800]))
    assert abs(np.argmax(spectrum) * 16000 / 5000 - 500) < 10  # Hz
    unknown, _ = faster_clip(Clip("k", 0, 0, 16000, (5,), None, "f", "v"), tone, 0.8)
    assert unknown.alignment is None and unknown.length == 20000


def test_hidden_bands_are_few_and_the_rest_stays() -> None:
    mel = torch.randn(64, 80, 5)
    hidden = (hide_bands(mel, 10) != mel).any(-1).sum(-1)
    assert int(hidden.max()) <= 20 and bool(hidden.any())


def test_an_anchor_holds_the_units_of_its_families(shards: str, tmp_path: Path) -> None:
    store = ClipStore([shards], tmp_path / "cache")
    model, anchor = S2UTokenizer(TINY), S2UTokenizer(TINY)
    anchor.load_state_dict(model.state_dict())
    training = S2UTraining(model, S2UTrainConfig(), anchor)
    before = {name: value.clone() for name, value in anchor.state_dict().items()}
    batch = TwoViews(store, [1.0], 1, 6.0, seed=0, views=Views(anchored=["one"]))[0]
    assert batch["anchored"].any() and not batch["anchored"].all()
    training.eval()
    terms = training(**batch)
    assert float(terms["anchor"]) < 1e-6 and float(terms["units_kept"]) == 1.0  # it is where it began
    training.train()
    training(**batch)["loss"].backward()
    assert all(torch.equal(value, before[name]) for name, value in anchor.state_dict().items())
    assert not any(name.startswith("anchor") for name in training.state_dict())
    with torch.no_grad():
        model.project.linear.weight.neg_()
    moved = training.eval()(**batch)
    assert float(moved["anchor"]) > 0.1 and float(moved["loss"].detach()) > float(moved["anchor"])
    assert "anchor" not in training(**batch | {"anchored": torch.zeros_like(batch["anchored"])})


def test_warping_by_one_changes_nothing_and_moves_formants_otherwise() -> None:
    config = MelConfig()
    identity, up = warp_matrix(config, torch.tensor([1.0, 1.2]))
    assert torch.allclose(identity, torch.eye(80), atol=1e-3)
    peak = torch.zeros(80)
    peak[40] = 1
    assert int((up @ peak).argmax()) < 40  # bin m now shows what was at 1.2 times its frequency


def test_every_trainable_part_gets_a_gradient(shards: str, tmp_path: Path) -> None:
    store = ClipStore([shards], tmp_path / "cache")
    training = S2UTraining(S2UTokenizer(TINY), S2UTrainConfig(ramp=1))
    batch = TwoViews(store, [1.0], 1, 6.0, seed=0)[0]
    training(**batch)  # the ramp starts at zero
    terms = training(**batch)
    terms["loss"].backward()
    assert {"ctc", "frame", "consistency", "redundancy", "wide_ctc", "wide_frame"} <= set(terms)
    assert [name for name, p in training.named_parameters() if p.grad is None or not bool(p.grad.any())] == []


def test_a_short_run_exports_a_tokenizer(shards: str, tmp_path: Path) -> None:
    run = RunConfig(str(tmp_path / "run"), max_steps=3, batch_size=1, eval_every=2, save_every=2, log_every=1)
    config = S2UTrainConfig(
        model=TINY, run=run, train=[SourceConfig(shards, 1.0)], validation=[shards], cache=str(tmp_path / "cache"),
        batch_seconds=3.0, validation_clips=1,
    )  # fmt: skip
    result = train(config)
    assert result.steps == 3
    assert {"phone_error/one", "phone_error/two"} <= set(result.eval_terms)
    model = S2UTokenizer.from_pretrained(tmp_path / "run" / "export")
    store = ClipStore([shards], tmp_path / "cache")
    assert phone_errors(model, store, store.clips[:1])["phone_error/two"] >= 0


def test_phones_without_a_class_are_told_and_teach_nothing(tmp_path: Path, capsys) -> None:
    """Their stretches are neither silence nor another sound."""
    meta = {"phones": ["h", "ʁ", "ˈ", "O"], "alignment": [["h", 0.1, 0.2], ["ʁ", 0.2, 0.4], ["O", 0.4, 0.9]]}
    with tarfile.open(tmp_path / "fr-000000.tar", "w") as tar:
        for clip in range(2):
            flac = io.BytesIO()
            soundfile.write(flac, np.random.default_rng(clip).standard_normal(16000) * 0.1, 16000, format="FLAC")
            for kind, data in (("flac", flac.getvalue()), ("json", json.dumps(meta).encode())):
                member = tarfile.TarInfo(f"clip{clip}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    pattern = str(tmp_path / "fr-*.tar")
    store = ClipStore([pattern], tmp_path / "cache")
    assert store.unknown == {"ʁ": 2} and len(store.clips[0].phones) == 2
    labels = frame_labels(store.clips[0], 0, 16000).tolist()
    assert labels[12:18] == [IGNORED] * 6 and labels[0] == BLANK and IGNORED not in labels[25:]
    french = PhoneInventory((*PHONES, "ʁ"))
    again = ClipStore([pattern], tmp_path / "cache", inventory=french)
    assert not again.unknown and french.names(again.clips[0].phones) == ["h", "ʁ", "O"]
    run = RunConfig(str(tmp_path / "run"), max_steps=1, batch_size=1, eval_every=5, save_every=5, log_every=1)
    sources, cache = [SourceConfig(pattern, 1.0)], str(tmp_path / "cache")
    train(S2UTrainConfig(model=TINY, run=run, train=sources, cache=cache, batch_seconds=2.0))
    assert "2 phones of 1 kinds are not in the inventory" in capsys.readouterr().err


def test_no_shards_and_a_misfit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names no shards"):
        train(S2UTrainConfig(run=RunConfig(str(tmp_path / "run"))))
    with pytest.raises(InputError, match="name what is kept"):
        train(S2UTrainConfig(run=RunConfig(str(tmp_path / "run")), train=[SourceConfig("any")], keep_whisper=True))


def _model_file(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A CTranslate2 file of version 6 with float16 arrays."""
    text = lambda value: struct.pack("<H", len(value) + 1) + value.encode() + b"\0"  # noqa: E731
    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        raw = array.astype(np.float16).tobytes()
        data += text(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        data += struct.pack("<BI", 4, len(raw)) + raw
    path.write_bytes(data)
    return path


SMALL_STAGE = SpiralStageConfig([SpiralConvConfig(8, 3, 1), SpiralConvConfig(8, 3, 2)], 1, 2, 16, positions=True)


def _whisper_arrays() -> dict[str, np.ndarray]:
    """An encoder shaped like ``SMALL_STAGE``."""
    shapes = {
        "conv1/weight": (8, 80, 3), "conv1/bias": (8,), "conv2/weight": (8, 8, 3), "conv2/bias": (8,),
        "layer_norm/gamma": (8,), "layer_norm/beta": (8,),
        "layer_0/self_attention/layer_norm/gamma": (8,), "layer_0/self_attention/layer_norm/beta": (8,),
        "layer_0/self_attention/linear_0/weight": (24, 8), "layer_0/self_attention/linear_0/bias": (24,),
        "layer_0/self_attention/linear_1/weight": (8, 8), "layer_0/self_attention/linear_1/bias": (8,),
        "layer_0/ffn/layer_norm/gamma": (8,), "layer_0/ffn/layer_norm/beta": (8,),
        "layer_0/ffn/linear_0/weight": (16, 8), "layer_0/ffn/linear_0/bias": (16,),
        "layer_0/ffn/linear_1/weight": (8, 16), "layer_0/ffn/linear_1/bias": (8,),
        "position_encodings/encodings": (10, 8),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    return {"encoder/" + name: rng.standard_normal(shape) for name, shape in shapes.items()}


def test_a_whisper_encoder_fills_a_stage(tmp_path: Path) -> None:
    stage, arrays = SpiralStage(80, SMALL_STAGE, 4, 1), _whisper_arrays()
    path = _model_file(tmp_path / "model.bin", arrays | {"decoder/x": np.zeros(3)})
    stage.load_state_dict(whisper_stage_state(path))
    wanted = arrays["encoder/layer_0/ffn/linear_1/weight"].astype(np.float16)
    assert np.array_equal(stage.state_dict()["blocks.0.ffn.2.weight"].numpy(), wanted.astype(np.float32))


def test_a_kept_whisper_stage_is_whispers_and_stays(tmp_path: Path) -> None:
    path = _model_file(tmp_path / "model.bin", _whisper_arrays())
    second = SpiralStageConfig([SpiralConvConfig(8, 2, 2)], 1, 2, 16)
    before = S2UTokenizer(S2UConfig(stages=[SMALL_STAGE, second], block_units=4, left_blocks=2))
    before.save_pretrained(tmp_path / "before", "float32")
    wider = replace(before.config, block_units=8, left_blocks=1)
    model = build(S2UTrainConfig(wider, start_from=str(tmp_path / "before"), whisper=str(path), keep_whisper=True))
    state, whisper, old = model.state_dict(), whisper_stage_state(path), before.state_dict()
    for name, weight in state.items():
        kept = name.removeprefix("encoder.stages.0.")
        assert torch.equal(weight, whisper[kept] if kept != name else old[name]), name
    learnt = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learnt == {name for name, _ in before.named_parameters() if not name.startswith("encoder.stages.0.")}


def _small_distillation(whisper: Path, shards: str, output: Path, **values: Any) -> DistilConfig:
    model = S2UConfig(stages=[SMALL_STAGE], block_units=8, left_blocks=1)
    return DistilConfig(
        model, RunConfig(output_dir=str(output), batch_size=1, max_steps=2, save_every=2, eval_every=2, log_every=1),
        [SourceConfig(shards)], [shards], str(output / "cache"), str(whisper), batch_seconds=4, **values,
    )  # fmt: skip


def test_a_stage_that_hears_all_as_its_teacher_does_has_nothing_to_learn(tmp_path: Path, shards: str) -> None:
    whisper = _model_file(tmp_path / "model.bin", _whisper_arrays())
    config = _small_distillation(whisper, shards, tmp_path, max_start=1, clean=1.0)
    state = whisper_stage_state(whisper)
    stages = [SpiralStage(80, SMALL_STAGE, block, left) for block, left in ((1 << 20, 0), (1 << 20, 0), (8, 1))]
    for stage in stages:
        stage.load_state_dict(state)
    rng = np.random.default_rng(0)
    # Loud and unlike each other, so that Whisper's clamp, which a stream cannot have, changes nothing.
    samples = torch.from_numpy(rng.standard_normal((4, 16000)).astype(np.float32) * 0.3)
    batch = {
        "samples": samples, "lengths": torch.tensor([16000, 12800] * 2), "start": torch.zeros(4, dtype=torch.long),
        "warp": torch.ones(2),
    }  # fmt: skip
    whole, blocks = (Distillation(stage, stages[0], config).eval()(**batch)["loss"] for stage in stages[1:])
    assert float(whole) < 1e-6 < 1e-3 < float(blocks)


def test_distilling_exports_a_first_stage(tmp_path: Path, shards: str) -> None:
    whisper = _model_file(tmp_path / "model.bin", _whisper_arrays())
    result = distil(_small_distillation(whisper, shards, tmp_path / "run"))
    assert result.steps == 2 and 0 < result.eval_terms["loss"] < 10
    learnt, before = whisper_stage_state(tmp_path / "run" / "export"), whisper_stage_state(whisper)
    assert learnt.keys() == before.keys() and not torch.equal(learnt["norm.weight"], before["norm.weight"])


@pytest.mark.parametrize("cut", [3, 40, -1])
def test_a_damaged_model_file_is_refused(cut: int, tmp_path: Path) -> None:
    path = _model_file(tmp_path / "model.bin", {"encoder/conv1/bias": np.zeros(384)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="model.bin"):
        read_ctranslate2(path)
    with pytest.raises(InputError, match="no such file"):
        read_ctranslate2(tmp_path / "nowhere.bin")


def test_another_vocal_tract_moves_the_formants_and_nothing_else() -> None:
    pulses = np.zeros(32000, np.float32)
    pulses[::125] = 1.0  # a voice of 128 Hz
    sound = lfilter([1.0], [1, -1.92 * np.cos(2 * np.pi * 1500 / 16000), 0.9216], pulses).astype(np.float32)
    frequencies = np.fft.rfftfreq(len(sound), 1 / 16000)

    def peak(samples: np.ndarray) -> float:
        return float(frequencies[np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax()])

    assert np.allclose(warp_formants(sound, 1.0), sound, atol=1e-4)
    assert peak(sound) == pytest.approx(1500, abs=70)
    for factor in (0.8, 1.25):
        moved = warp_formants(sound, factor)
        assert moved.shape == sound.shape and moved.dtype == np.float32
        assert peak(moved) == pytest.approx(1500 * factor, abs=128)  # the nearest harmonics
        assert peak(moved) % 128 == pytest.approx(0, abs=1)  # the harmonics stay where they are
