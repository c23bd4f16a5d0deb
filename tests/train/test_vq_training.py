# ruff: noqa: F811  # fixtures are imported and named as arguments
"""Training of the supervised tokenizer: what it starts from, what it learns from, exact resume, two processes."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import WhisperModel

from emova.checkpoint.registry import load_tokenizer
from emova.core.config import load_config
from emova.core.errors import InputError
from emova.speech.tokenizer.whisper_vq.reader import IGNORED
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQTokenizer
from emova_train.core.metrics import read
from emova_train.vq.data import TextBatches, TextSet, TextSource, TextStore, balanced
from emova_train.vq.labels import Labeller, label
from emova_train.vq.program import VQTrainConfig, build, train, words_of
from emova_train.vq.reader import word_decoder
from emova_train.vq.teacher import Teacher
from emova_train.vq.whisper import Whisper, WholeEncoder, load_whisper
from tests.train.fixtures_vq import (  # noqa: F401  # fixtures
    TINY,
    config,
    labelled,
    started,
    whisper,
    whisper_folder,
)


# --- what it starts from ----------------------------------------------------------------------------------------------
def ctranslate2(path: Path, whisper: Whisper) -> None:
    """The same Whisper as a CTranslate2 folder."""
    arrays: dict[str, np.ndarray] = {}
    leaf = {"weight": "weight", "bias": "bias"}
    for side, layers in (("encoder", 2), ("decoder", 1)):
        own = {n.removeprefix(f"{side}."): v.numpy() for n, v in whisper.state.items() if n.startswith(side)}
        arrays[f"{side}/num_heads"] = np.array(2, np.int16)
        arrays[f"{side}/position_encodings/encodings"] = own["embed_positions.weight"]
        for ours, theirs in (("layer_norm.weight", "layer_norm/gamma"), ("layer_norm.bias", "layer_norm/beta")):
            arrays[f"{side}/{theirs}"] = own[ours]
        if side == "encoder":
            for conv in ("conv1", "conv2"):
                arrays |= {f"encoder/{conv}/{kind}": own[f"{conv}.{kind}"] for kind in leaf}
        else:
            arrays["decoder/embeddings/weight"] = own["embed_tokens.weight"]
        for layer in range(layers):
            at, to = f"layers.{layer}.", f"{side}/layer_{layer}/"
            groups: dict[str, tuple[str, list[tuple[str, ...]]]] = {"self_attention": ("self_attn", [("q", "k", "v")])}
            if side == "decoder":
                groups["attention"] = ("encoder_attn", [("q",), ("k", "v")])
            for name, (attention, linears) in groups.items():
                zeros = np.zeros(16, np.float32)
                for number, words in enumerate(linears):
                    for kind in leaf:
                        rows = [own.get(f"{at}{attention}.{word}_proj.{kind}", zeros) for word in words]
                        arrays[f"{to}{name}/linear_{number}/{kind}"] = np.concatenate(rows)
                for kind in leaf:
                    arrays[f"{to}{name}/linear_{len(linears)}/{kind}"] = own[f"{at}{attention}.out_proj.{kind}"]
                for kind, said in (("weight", "gamma"), ("bias", "beta")):
                    arrays[f"{to}{name}/layer_norm/{said}"] = own[f"{at}{attention}_layer_norm.{kind}"]
            for kind, said in (("weight", "gamma"), ("bias", "beta")):
                arrays[f"{to}ffn/layer_norm/{said}"] = own[f"{at}final_layer_norm.{kind}"]
            for number in (0, 1):
                arrays |= {f"{to}ffn/linear_{number}/{kind}": own[f"{at}fc{number + 1}.{kind}"] for kind in leaf}
    text = lambda value: struct.pack("<H", len(value) + 1) + value.encode() + b"\0"  # noqa: E731
    data = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        code = 2 if array.dtype == np.int16 else 0
        raw = np.ascontiguousarray(array, np.int16 if code else np.float32).tobytes()
        data += text(name) + struct.pack("<B", array.ndim) + struct.pack(f"<{array.ndim}I", *array.shape)
        data += struct.pack("<BI", code, len(raw)) + raw
    path.mkdir()
    (path / "model.bin").write_bytes(data)


def test_a_ctranslate2_whisper_is_the_same_as_transformers(
    whisper: Whisper, whisper_folder: Path, tmp_path: Path
) -> None:
    ctranslate2(tmp_path / "ct2", whisper)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_whisper(str(tmp_path / "ct2"))
    shutil.copy(whisper_folder / "tokenizer.json", tmp_path / "ct2")
    other = load_whisper(str(tmp_path / "ct2"))
    assert set(other.state) == set(whisper.state)
    assert all(torch.equal(other.state[name], value) for name, value in whisper.state.items())
    assert other.text.prompt == whisper.text.prompt and other.text.decode(other.text.encode("Two eggs.")) == "Two eggs."
    for name in ("d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads", "max_source_positions"):
        assert getattr(other.config, name) == getattr(whisper.config, name)


def test_the_whole_whisper_is_transformers_own(whisper: Whisper, whisper_folder: Path) -> None:
    """Its encoder and its decoder, over a whole window, and cached decoding equals one pass."""
    model = WhisperModel.from_pretrained(whisper_folder).eval()
    features = torch.randn(2, 80, 1000, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[257, 258, 5, 9], [257, 258, 7, 8]])
    with torch.inference_mode():
        wanted = model(features, decoder_input_ids=tokens)
        heard, inside = WholeEncoder(whisper).eval()(features, torch.tensor([1000, 1000]))
        assert (heard - wanted.encoder_last_hidden_state).abs().max() < 1e-5
        words = word_decoder(whisper).eval()
        logits = words(tokens, heard, inside)
        assert (logits - wanted.last_hidden_state @ model.decoder.embed_tokens.weight.T).abs().max() < 1e-5
        (row, _) = words.read(heard, inside, [257, 258], 999, [6, 2])
        again = words(torch.tensor([[257, 258, *row]]), heard[:1], inside[:1]).argmax(-1)[0, 1:-1]
        assert row == again.tolist() and len(row) == 6
        # What lies behind a row's end is not heard.
        half = torch.arange(heard.shape[1])[None] < torch.tensor([[100], [500]])
        assert torch.allclose(
            words(tokens, heard, half)[0], words(tokens[:1], heard[:1, :100], half[:1, :100])[0], atol=1e-5
        )


def test_a_whisper_of_another_shape_is_refused(config: VQTrainConfig, whisper: Whisper, tmp_path: Path) -> None:
    for change in ({"width": 32}, {"layers": 2}, {"positions": 800}):
        wrong = replace(config, model=replace(TINY, encoder=replace(TINY.encoder, **change)))
        with pytest.raises(InputError, match=r"encoder"):
            build(wrong, whisper)
    with pytest.raises(InputError, match="no Whisper"):
        load_whisper(str(tmp_path / "nothing"))


# --- what it learns from ----------------------------------------------------------------------------------------------
def test_labelled_and_pseudo_labelled_speech_come_one_to_three() -> None:
    sources = [TextSource("a"), TextSource("b", repeat=2.0), TextSource("c", pseudo=True), TextSource("d", 0.5, True)]
    counts = [100, 50, 400, 200]
    repeats = balanced(sources, counts, 3.0)
    shares = [repeat * count for repeat, count in zip(repeats, counts, strict=True)]
    assert repeats[:2] == [1.0, 2.0] and sum(shares[2:]) == pytest.approx(3 * sum(shares[:2]))
    assert repeats[3] == pytest.approx(repeats[2] / 2)
    assert balanced(sources, counts, 0.0) == [1.0, 2.0, 1.0, 0.5] and balanced(sources[:2], counts[:2], 3.0) == [
        1.0,
        2.0,
    ]


def test_pseudo_labels_are_made_once_and_needed(config: VQTrainConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pseudo-labels"):
        TextStore(config.train, config.cache, config.labels, 16.0)
    label(config, rows=2)
    written = tmp_path / "labels" / "heard-train-000000.json"
    before = written.stat().st_mtime_ns
    assert set(json.loads(written.read_text())) <= {f"heard-train-000000-{clip}" for clip in range(3)}
    assert label(config) == 0 and written.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="pseudo: true"):
        label(replace(config, train=config.train[:1]))


def test_a_label_does_not_depend_on_its_batch(config: VQTrainConfig) -> None:
    labeller = Labeller(config.whisper, "en")
    clips = [np.random.default_rng(seed).standard_normal(9000 + seed).astype(np.float32) * 0.1 for seed in range(3)]
    assert labeller(clips) == [labeller([clip])[0] for clip in clips]
    assert labeller([np.zeros(400_000, np.float32)]) == [""]  # longer than this Whisper hears


def test_batches_are_a_function_of_seed_and_number(config: VQTrainConfig, whisper: Whisper) -> None:
    store = TextStore(labelled(config).train, config.cache, config.labels, 16.0)
    make = TextBatches(whisper.text, WhisperVQTokenizer(TINY).inventory, 1280, 0.5)
    one, two = (TextSet(store, [1.0, 1.0], 5, 3.0, 3, make) for _ in range(2))
    two[1]
    for name, tensor in one[4].items():
        assert torch.equal(tensor, two[4][name]), name
    batch = one[4]
    first, text = batch["targets"][0], [t for t in batch["targets"][0].tolist() if t != IGNORED]
    assert text[-1] == whisper.text.end and whisper.text.decode(text) in ("hello there", "good day")
    assert first[0] == IGNORED and batch["tokens"][0, :2].tolist() == whisper.text.prompt
    assert bool((batch["lengths"] % 1280 == 0).all())


# --- how it learns ----------------------------------------------------------------------------------------------------
def test_every_part_learns(config: VQTrainConfig, whisper: Whisper) -> None:
    training, batch = started(config, whisper)
    terms = training(**batch)
    terms["loss"].backward()
    assert {"words", "commitment", "phones", "codebook_perplexity"} <= set(terms)
    missing = [
        name for name, p in training.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())
    ]
    # Whisper's keys have no bias: it would add the same to all scores.
    assert [name for name in missing if not name.endswith(("positions.weight", "k_proj.bias"))] == []
    assert training.model.encoder.codebook.weight.grad is None


def test_the_units_of_training_are_those_of_the_tokenizer(config: VQTrainConfig, whisper: Whisper) -> None:
    training, batch = started(config, whisper)
    training.eval()
    vectors = training.model(batch["samples"], batch["lengths"])
    trained = training.quantizer(vectors[:1].detach())[1]
    assert torch.equal(trained, training.model.encoder.nearest(vectors[:1]))
    # A clip alone, as it is heard later: the running floor and the blocks are the same.
    count = int(batch["lengths"][0])
    offline = training.model.encode(batch["samples"][:1, :count])[0]
    assert (offline == trained[0, : len(offline)]).float().mean() > 0.9


def test_a_short_run_learns_exports_and_goes_on_exactly(config: VQTrainConfig, tmp_path: Path) -> None:
    config = replace(config, teacher=1.0)
    result = train(labelled(config))
    assert result.steps == 4 and {"word_error/one", "phone_error/one", "codebook_perplexity"} <= set(result.eval_terms)
    whole = load_file(tmp_path / "run" / "export" / "model.safetensors")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    shutil.rmtree(next(path for path in (tmp_path / "again").iterdir() if path.name.endswith("4")))
    again = train(replace(config, run=replace(config.run, output_dir=str(tmp_path / "again"))))
    assert again.steps == 4
    resumed = load_file(tmp_path / "again" / "export" / "model.safetensors")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    ears = load_tokenizer(tmp_path / "run" / "export")
    assert isinstance(ears, WhisperVQTokenizer) and ears.unit_rate == 12.5
    assert isinstance(ears.phones([ears.encode(torch.randn(1, 20_000))[0]])[0], list)


def test_a_teacher_tells_what_whispers_decoder_heard_before(whisper: Whisper) -> None:
    """A unit's vector should be the mean of the frames that it stands for, whatever the clip's neighbours are."""
    teacher = Teacher(whisper, 4)
    samples = torch.randn(2, 12_800, generator=torch.Generator().manual_seed(0)) * 0.1
    lengths = torch.tensor([12_800, 5_000])
    samples[1, 5_000:] = 0.0  # as a batch is filled up
    wanted = teacher.heard(samples, lengths)
    assert wanted.shape[:2] == (2, 10)
    alone = teacher.heard(samples[1:, :5_120], lengths[1:])
    assert torch.allclose(alone, wanted[1:, :4], atol=1e-2)  # behind its end lies silence, not nothing
    inside = torch.arange(10) < torch.tensor([10, 4])[:, None]
    assert float(teacher.distance(samples, lengths, wanted, inside)) < 1e-6
    mean = wanted[inside].mean(0).expand_as(wanted)
    assert float(teacher.distance(samples, lengths, mean, inside)) == pytest.approx(1.0, abs=0.1)


def test_a_teacher_brings_what_is_heard_closer_and_is_written_nowhere(config: VQTrainConfig, whisper: Whisper) -> None:
    config = replace(config, teacher=2.0, perturbed=0.0)
    training, batch = started(config, whisper)
    assert training.teacher is not None and not any("teacher" in name for name in training.state_dict())
    before = {name: value.clone() for name, value in training.teacher.encoder.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in training.parameters() if p.requires_grad], 3e-3)
    curve = []
    for _ in range(40):
        terms = training(**batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        curve.append(float(terms["teacher"].detach()))
    assert np.mean(curve[-5:]) < 0.8 * np.mean(curve[:5])
    assert all(torch.equal(value, before[name]) for name, value in training.teacher.encoder.state_dict().items())


def test_a_few_recordings_can_be_learnt_by_heart(config: VQTrainConfig) -> None:
    run = replace(config.run, max_steps=25, eval_every=25, save_every=25, learning_rate=1e-2)
    result = train(labelled(replace(config, run=run, perturbed=0.0, batch_seconds=30.0)))
    curve = [row["words"] for row in read(Path(run.output_dir) / "metrics.jsonl") if "words" in row]
    assert curve[-1] < 0.75 * curve[0] and result.steps == 25


def test_words_are_compared_without_marks() -> None:
    assert words_of("Hello, it's ME!") == ["hello", "it's", "me"] and words_of("你好。") == ["你", "好"]


@pytest.mark.parametrize("name", ["nano", "paper"])
def test_the_shipped_configs_are_those_of_the_classes(name: str) -> None:
    loaded = load_config(VQTrainConfig, name, kind="vq")
    for pooling, rate in ((1, 50), (2, 25), (8, 6.25)):
        with torch.device("meta"):
            other = replace(loaded.model, encoder=replace(loaded.model.encoder, pooling=pooling))
            assert WhisperVQTokenizer(other).unit_rate == rate
    assert loaded.model.encoder.pooling == 4 and loaded.pseudo_ratio == 3.0 and loaded.commitment == 10.0
    with torch.device("meta"):
        assert WhisperVQTokenizer(loaded.model).unit_rate == 12.5


def test_what_is_missing_is_told(config: VQTrainConfig) -> None:
    with pytest.raises(InputError, match="see the shipped config"):
        train(VQTrainConfig())
    with pytest.raises(InputError, match="labels"):
        train(replace(config, labels=""))
    parallel = replace(config.run.parallel, strategy="zero2")
    with pytest.raises(InputError, match="ddp"):
        train(replace(config, run=replace(config.run, parallel=parallel)))
