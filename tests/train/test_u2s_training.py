"""Laws of the unit-to-speech training: data windows, separate gradients, a loss that falls."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import emova_train.u2s.program as program
from emova.core.config import load_config
from emova.core.errors import InputError
from emova.speech.detokenizer.flow import FlowConfig
from emova.speech.detokenizer.style_encoder import StyleEncoderConfig
from emova.speech.detokenizer.u2s import U2SConfig, U2SDetokenizer
from emova.speech.detokenizer.unit_encoder import UnitEncoderConfig
from emova.speech.detokenizer.vits import PitchConfig, PosteriorEncoderConfig, VITSConfig
from emova.speech.detokenizer.waveform_heads import ISTFTHeadConfig, WaveformHeadConfig
from emova.speech.style import DEFAULT_STYLES
from emova_train.core.config import RunConfig
from emova_train.u2s.cache import SpeechStore, cache_shard, cache_units, find_shards
from emova_train.u2s.config import U2SDataConfig, U2SLossConfig, U2SRecipe
from emova_train.u2s.data import Windows, collate, continuous, place, shake_digits
from emova_train.u2s.discriminators import DiscriminatorConfig
from emova_train.u2s.losses import SpectralLoss, kl_term
from emova_train.u2s.program import U2STraining, parameter_groups
from emova_train.u2s.prototypes import StyleClassifier, acoustic_features, choose_by_recogniser, choose_prototypes
from emova_train.u2s.prototypes import main as prototypes_main
from emova_train.u2s.recognisers import find_recogniser


def tiny_recipe(folder: Path) -> U2SRecipe:
    units = UnitEncoderConfig(
        codebook_size=64, levels=(8, 8), digit_channels=4, channels=16, unit_dilations=(1,), unit_lookahead=(1,),
        frame_dilations=(1,), frame_lookahead=(1,),
    )  # fmt: skip
    vits = VITSConfig(
        latent_channels=8, units=units, flow=FlowConfig(layers=2, channels=8, kernel=3),
        head=WaveformHeadConfig(istft=ISTFTHeadConfig(channels=16, lookahead=(1,))),
        pitch=PitchConfig(hidden=16, dilations=(1,), lookahead=(1,)),
    )  # fmt: skip
    data = U2SDataConfig(
        levels=(8, 8), digit_noise=0.0,
        train=[str(folder / "style-train-*.tar")], validation=[str(folder / "style-train-*.tar")],
        cache=str(folder / "cache"), tokenizer="emova-nano", processes=1, window_units=8, context_left=3,
        context_right=2, reference_seconds=0.5, validation_windows=2,
    )  # fmt: skip
    return U2SRecipe(
        model=U2SConfig(vits, StyleEncoderConfig(style_size=8, channels=8, n_mels=16, dropout=0.0)),
        posterior=PosteriorEncoderConfig(channels=8, layers=2),
        discriminators=DiscriminatorConfig(sizes=(480, 240), channels=(4, 4), strides=(4, 4)),
        losses=U2SLossConfig(
            adversarial_start=0, sizes=(480, 960), mels=(20, 30), wave_units=5, wave_context=(2, 1)
        ),
        data=data,
        run=RunConfig(
            output_dir=str(folder / "run"), max_steps=4, batch_size=4, learning_rate=2e-3, save_every=2, eval_every=4,
            log_every=1, precision="fp32",
        ),
        samples=2,
    )  # fmt: skip


def say(sentence: int, pitch: float, units: int = 14) -> np.ndarray:
    """A buzz with a gap, so that there are voiced and unvoiced frames."""
    time = np.arange(units * 960 + 100) / 24000
    buzz = sum(np.cos(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * (2 + sentence) * time)
    noise = np.random.default_rng(sentence).normal(size=len(time)) * 0.01
    return ((0.2 * buzz * envelope + noise) * (time < 0.45) * 0.5).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard of two sentences in two styles, cached, with units that a real tokenizer would have made."""
    folder = tmp_path_factory.mktemp("u2s")
    path = folder / "style-train-000000.tar"
    with tarfile.open(path, "w") as shard:
        for sentence in range(2):
            for emotion, f0 in (("neutral", 120.0), ("happy", 180.0)):
                stem = f"{sentence}-{emotion}"
                sound = io.BytesIO()
                soundfile.write(sound, say(sentence, f0), 24000, format="FLAC")
                meta = {"text": f"sentence {sentence}", "voice": "v", "gender": "female", "emotion": emotion,
                        "pitch": "normal"}  # fmt: skip
                for name, content in ((f"{stem}.flac", sound.getvalue()), (f"{stem}.json", json.dumps(meta).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
    cached = cache_shard(str(path), str(folder / "cache"))
    units = np.random.default_rng(0).integers(0, 64, 4 * 14).astype(np.int16)
    np.save(cached / "units-test.npy", units)
    return folder


def batch_of(data: Path, recipe: U2SRecipe) -> dict[str, torch.Tensor]:
    np.random.seed(0)
    windows = Windows(SpeechStore(recipe.data.train, recipe.data.cache, "test"), recipe.data)
    return collate([windows[index] for index in range(4)])


def test_cache_is_aligned_and_not_made_twice(data: Path) -> None:
    recipe = tiny_recipe(data)
    store = SpeechStore(recipe.data.train, recipe.data.cache, "test")
    assert len(store) == 4 and store.utterances[0].units == 14
    assert store.samples(1).shape == (14 * 960,) and store.f0(1).shape == (14 * 4,)
    assert np.median(store.f0(1)[store.f0(1) > 0]) == pytest.approx(180, rel=0.02)
    assert store.neutral(1) == 0 and store.neutral(3) == 2 and store.neutral(0) == 0
    path = find_shards(recipe.data.train)[0]
    before = (cache_shard(path, recipe.data.cache) / "audio.npy").stat().st_mtime_ns
    assert (cache_shard(path, recipe.data.cache) / "audio.npy").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="not in the cache"):
        SpeechStore(recipe.data.train, recipe.data.cache, "other")
    with pytest.raises(InputError, match="no such shards"):
        find_shards(["nowhere-*.tar"])


def test_windows_are_placed_and_repeatable(data: Path) -> None:
    recipe = tiny_recipe(data)
    assert place(np.arange(5), -2, 4).tolist() == [0, 0, 0, 1] and place(np.arange(5), 3, 4).tolist() == [3, 4, 0, 0]
    assert continuous(np.array([0.0, 100.0, 0.0, 400.0, 0.0])).tolist() == pytest.approx([100, 100, 200, 400, 400])
    batch, again = batch_of(data, recipe), batch_of(data, recipe)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert batch["units"].shape == (4, 13) and batch["unit_mask"].shape == (4, 1, 13)
    assert batch["audio"].shape == (4, 8 * 960) and batch["f0"].shape == batch["voiced"].shape == (4, 32)
    assert bool((batch["f0"] > 50).all()) and not batch["units"][batch["unit_mask"][:, 0] == 0].any()
    store = SpeechStore(recipe.data.train, recipe.data.cache, "test")
    always = replace(recipe.data, neutral_units=1.0)
    np.random.seed(1)
    window = Windows(store, always)[1]["units"]
    np.random.seed(1)
    assert torch.equal(window, Windows(store, always)[0]["units"])  # happy speech, neutral units


def test_digit_noise_moves_single_digits_by_one() -> None:
    np.random.seed(0)
    units = np.random.randint(0, 4096, 5000)
    shaken = shake_digits(units, (8, 8, 8, 8), 0.1)
    moved = [np.abs(units // 8**place % 8 - shaken // 8**place % 8) for place in range(4)]
    assert all(move.max() == 1 for move in moved) and 0.06 < np.mean(moved) < 0.12
    assert (shake_digits(units, (), 0.5) == units).all()


def test_gradients_stay_on_their_side(data: Path) -> None:
    recipe = tiny_recipe(data)
    torch.manual_seed(0)
    training = U2STraining(recipe).train()
    batch = batch_of(data, recipe)

    def close(a: torch.Tensor, b: torch.Tensor | None, atol: float = 1e-8) -> bool:
        assert b is not None
        return torch.allclose(a, b, atol=atol)

    def gradients(**weights: Any) -> tuple[list[torch.Tensor | None], list[torch.Tensor | None]]:
        training.weights = replace(recipe.losses, **weights)
        training.step.zero_()
        training.zero_grad(set_to_none=True)
        torch.manual_seed(1)
        training(**batch)["loss"].backward()
        generator = [p.grad for p in training.detokenizer.parameters()]
        return generator, [p.grad for p in training.discriminators.parameters()]

    with_term, critics = gradients(adversarial=5.0)
    without_term, same_critics = gradients(adversarial=0.0, feature=0.0)
    # The discriminators' gradient does not depend on the generator's terms ...
    assert all(torch.allclose(a, b) for a, b in zip(critics, same_critics, strict=True))  # type: ignore[arg-type]
    assert any(bool(gradient.abs().max() > 0) for gradient in critics if gradient is not None)
    # ... the generator's does, and only through them: without, it is as if there were no discriminators.
    assert any(not close(a, b) for a, b in zip(with_term, without_term, strict=True) if a is not None)
    alone, none = gradients(adversarial_start=10, prior_path_early=recipe.losses.prior_path)
    assert all(gradient is None for gradient in none)
    assert all(close(a, b, 1e-6) for a, b in zip(alone, without_term, strict=True) if a is not None)
    assert all(parameter.requires_grad for parameter in training.discriminators.parameters())


def test_loss_falls(data: Path) -> None:
    recipe = tiny_recipe(data)
    torch.manual_seed(0)
    recipe = replace(recipe, losses=replace(recipe.losses, adversarial_start=1000))
    training = U2STraining(recipe).train()
    batch = batch_of(data, recipe)
    optimizer = torch.optim.AdamW(training.detokenizer.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        terms = training(**batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert int(training.step) == 30


def test_program_runs_exports_and_resumes(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(program, "prepare", lambda config, **_: None)
    monkeypatch.setattr(program, "kinds_of_units", lambda config: {"test": ""})
    recipe = tiny_recipe(data)
    recipe = replace(recipe, run=replace(recipe.run, output_dir=str(tmp_path / "run")))
    result = program.train(recipe)
    assert result.steps == 4 and "mel" in result.eval_terms and result.eval_terms["f0_cents"] >= 0
    exported = U2SDetokenizer.from_pretrained(tmp_path / "run" / "export")
    assert exported.config.vits.units.codebook_size == 64
    store = SpeechStore(recipe.data.train, recipe.data.cache, "test")
    first = [int(store.units(index)[0]) for index in range(len(store))]
    silence = exported.config.silence
    assert silence is not None and first.count(silence) == max(map(first.count, first))
    assert exported.vits.pitch is not None and exported.vits.pitch.contour_gain.shape == (9,)
    assert not any("discriminator" in name or "posterior" in name for name in exported.state_dict())
    assert len(list((tmp_path / "run" / "samples").glob("*.wav"))) == 4
    longer = replace(recipe, run=replace(recipe.run, max_steps=5))
    assert program.train(longer).steps == 5
    kept = replace(recipe, model=exported.config, initial=str(tmp_path / "run" / "export"), keep_styles=True)
    program.train(replace(kept, run=replace(recipe.run, output_dir=str(tmp_path / "kept"))))
    after = U2SDetokenizer.from_pretrained(tmp_path / "kept" / "export").state_dict()
    before = U2SDetokenizer.from_pretrained(tmp_path / "run" / "export").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any(name.startswith("style_encoder") for name in changed)
    with pytest.raises(InputError, match="keep_styles"):
        program.train(replace(kept, initial=""))
    other = replace(recipe, initial=str(tmp_path / "run" / "export"), model=U2SConfig())
    with pytest.raises(InputError, match="sizes differ"):
        program.train(replace(other, run=replace(recipe.run, output_dir=str(tmp_path / "other"))))


def test_windows_draw_among_the_kinds_of_units_and_validation_hears_the_first(data: Path) -> None:
    recipe = tiny_recipe(data)
    cached = cache_shard(find_shards(recipe.data.train)[0], recipe.data.cache)
    np.save(cached / "units-earlier.npy", np.full(4 * 14, 63, np.int16))
    config = replace(recipe.data, digit_noise=0.0)
    store = SpeechStore(recipe.data.train, recipe.data.cache, "test", "earlier")

    def share_earlier(noisy: bool) -> float:
        windows = Windows(store, config, noisy=noisy)
        heard = [windows[index % 4] for index in range(40)]
        return float(np.mean([bool((w["units"][w["unit_mask"][0] > 0] == 63).all()) for w in heard]))

    np.random.seed(0)
    assert 0.2 < share_earlier(True) < 0.8 and share_earlier(False) == 0


def test_rough_units_are_those_of_the_same_speech_through_rooms_and_noise(data: Path, monkeypatch) -> None:
    recipe = tiny_recipe(data)
    cached = cache_shard(find_shards(recipe.data.train)[0], recipe.data.cache)
    heard: dict[str, list[torch.Tensor]] = {}

    class Level:
        """Hears how loud each unit is."""

        unit_rate = 25.0

        def encode(self, samples: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
            heard.setdefault(name, []).append(samples)
            return [(row[: 640 * 14].view(14, 640).abs().mean(1) * 400).long() for row in samples]

    monkeypatch.setattr("emova_train.u2s.cache.load_tokenizer", lambda folder: Level())
    for name in ("levels", "levels-rough"):
        cache_units(cached, "emova-nano", name)
    clear, rough = (np.load(cached / f"units-{name}.npy") for name in heard)
    assert heard["levels"][0].shape == heard["levels-rough"][0].shape
    assert not torch.equal(heard["levels"][0], heard["levels-rough"][0])
    assert (clear != rough).any() and np.corrcoef(clear, rough)[0, 1] > 0.5


def test_every_parameter_is_trained_once(data: Path) -> None:
    training = U2STraining(tiny_recipe(data))
    groups = parameter_groups(tiny_recipe(data), training)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(parameter) for parameter in training.parameters()}


def test_losses_know_equality() -> None:
    spectral = SpectralLoss(24000, (480, 960), (20, 30))
    sound = torch.randn(1, 4800) * 0.1
    assert all(float(term) == 0 for term in spectral(sound, sound))
    quiet = spectral(sound * 0.5, sound)[0]
    assert float(quiet) == pytest.approx(np.log(2), abs=0.02)
    mean, log_scale, mask = torch.zeros(1, 4, 5000), torch.full((1, 4, 5000), -0.5), torch.ones(1, 1, 5000)
    draw = mean + log_scale.exp() * torch.randn_like(mean)
    assert float(kl_term(draw, log_scale, mean, log_scale, mask)) == pytest.approx(0, abs=0.05)
    assert float(kl_term(draw + 1, log_scale, mean, log_scale, mask)) > 1


def test_classifier_and_features_tell_styles() -> None:
    rows, labels = [], []
    for label, f0 in enumerate((100.0, 150.0)):
        for sentence in range(6):
            sound = say(sentence, f0 * (1 + 0.01 * sentence))
            frames = len(sound) // 240
            rows.append(acoustic_features(sound, np.where(np.arange(frames) < 45, f0 * (1 + 0.01 * sentence), 0.0)))
            labels.append(label)
    features = np.stack(rows)
    classifier = StyleClassifier(features[::2], labels[::2], 2)
    assert (classifier.log_probabilities(features[1::2]).argmax(1) == np.array(labels[1::2])).all()


def test_prototypes_cover_all_styles(data: Path) -> None:
    recipe = tiny_recipe(data)
    torch.manual_seed(0)
    detokenizer = U2SDetokenizer(recipe.model).eval()
    store = SpeechStore(recipe.data.train, recipe.data.cache, "test")
    with pytest.raises(InputError, match="recordings"):
        choose_prototypes(detokenizer, store)
    base = store.utterances[0]
    store.utterances = [
        replace(base, key=f"{style.key}-{n}", gender=style.gender, emotion=style.emotion, pitch=style.pitch)
        for style in DEFAULT_STYLES.all
        for n in range(4)
    ]
    store.utterances = [replace(u, units=14) for u in store.utterances]
    prototypes, report = choose_prototypes(
        detokenizer, store, candidates=2, shortlist=1, sentences=1, min_units=10
    )  # fmt: skip
    assert prototypes.size == 8 and set(report.keys) == {style.key for style in DEFAULT_STYLES.all}


class Listener:
    """Says of a recording what is written in its first sample."""

    name = "listener"

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def confidences(self, samples: np.ndarray, rate: int) -> dict[str, float]:
        assert rate == 24000 and samples.dtype == np.float32
        return {name: float(samples[0]) for name in self.names.values()}


def test_a_recogniser_chooses_the_surest_recording_of_each_style(data: Path, monkeypatch) -> None:
    """Top-1 by the confidence in the style's emotion; the prototype is that recording's own style vector."""
    torch.manual_seed(0)
    detokenizer = U2SDetokenizer(tiny_recipe(data).model).eval()
    store = SpeechStore(tiny_recipe(data).data.train, tiny_recipe(data).data.cache, "test")
    base = store.utterances[0]
    surest = {style.key: number % 3 for number, style in enumerate(DEFAULT_STYLES)}
    store.utterances = [
        replace(base, key=f"{style.key}-{n}", gender=style.gender, emotion=style.emotion, pitch=style.pitch)
        for style in DEFAULT_STYLES for n in range(3)
    ]  # fmt: skip

    def samples(index: int, *_: int) -> np.ndarray:
        each = store.utterances[index]
        style_key, number = each.key.rsplit("-", 1)
        sound = say(0, 100.0 + index)
        sound[0] = 0.9 if surest[style_key] == int(number) else 0.2
        return sound

    monkeypatch.setattr(store, "samples", samples)
    names = {"happy": "happy", "sad": "sadness", "angry": "angry", "neutral": "neutral"}
    prototypes, chosen = choose_by_recogniser(detokenizer, store, Listener(names), min_units=10)
    assert {key: choice.key for key, choice in chosen.items()} == {k: f"{k}-{n}" for k, n in surest.items()}
    assert all(choice.confidence == pytest.approx(0.9) for choice in chosen.values())
    style = list(DEFAULT_STYLES)[5]
    index = next(at for at, each in enumerate(store.utterances) if each.key == chosen[style.key].key)
    own = detokenizer.embed_style(torch.from_numpy(samples(index))[None])[0]
    assert torch.equal(prototypes[style], own)
    with pytest.raises(InputError, match="listener does not know the emotion"):
        choose_by_recogniser(detokenizer, store, Listener({"x": "bored"}), min_units=10)
    with pytest.raises(InputError, match="no recordings that are long enough"):
        choose_by_recogniser(detokenizer, store, Listener(names), min_units=1000)


def test_emotion2vec_is_asked_in_its_own_way(monkeypatch) -> None:
    asked: list[object] = []

    class Model:
        def __init__(self, **options: object) -> None:
            if options["model"] == "unreachable":
                raise OSError("no route to host")
            asked.append(options["model"])

        def generate(self, samples: np.ndarray, **options: object) -> list[dict[str, list[object]]]:
            asked.append((len(samples), samples.dtype, options["granularity"]))
            return [{"labels": ["生气/angry", "开心/happy", "<unk>"], "scores": [0.1, 0.7, 0.2]}]

    monkeypatch.setitem(sys.modules, "funasr", types.SimpleNamespace(AutoModel=Model))
    found = find_recogniser("auto", "mine")
    assert found is not None and found.name == "emotion2vec (mine)"
    assert found.confidences(np.zeros(24000, np.float32), 24000) == {"angry": 0.1, "happy": 0.7, "<unk>": 0.2}
    assert asked == ["mine", (16000, np.float32, "utterance")]
    with pytest.raises(InputError, match="see that the hub can be reached"):
        find_recogniser("emotion2vec", "unreachable")
    assert find_recogniser("auto", "unreachable") is None and find_recogniser("acoustic") is None
    monkeypatch.setitem(sys.modules, "funasr", None)
    with pytest.raises(InputError, match="pip install funasr"):
        find_recogniser("emotion2vec")


def test_prototypes_go_to_a_folder(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["", "configs/u2s/nano.yaml", "--detokenizer", "any", "--out", "a.safetensors"])
    assert prototypes_main() == 2
    assert "give the folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nano", "paper-pretrain", "paper-style"])
def test_shipped_configs_load(name: str) -> None:
    recipe = load_config(U2SRecipe, f"configs/u2s/{name}.yaml")
    spare = recipe.data.window_units - recipe.losses.wave_units - sum(recipe.losses.wave_context)
    assert spare >= 0 and len(recipe.losses.sizes) == len(recipe.losses.mels)
