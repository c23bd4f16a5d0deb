"""Training of the flow-matching decoder: rows, losses, both stages, what it exports, two processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from emova.checkpoint.registry import load_detokenizer
from emova.core.config import config_dict, load_config
from emova.core.errors import InputError
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTConfig, FlowHiFTDetokenizer
from emova.speech.detokenizer.flow_hift.estimator import EstimatorConfig
from emova.speech.detokenizer.flow_hift.harmonic import HarmonicConfig, HarmonicNoise
from emova.speech.detokenizer.flow_hift.hift import HiFTConfig
from emova.speech.detokenizer.flow_hift.unit_encoder import UnitEncoderConfig
from emova.speech.detokenizer.style_encoder import StyleEncoderConfig
from emova.speech.detokenizer.waveform_heads import ISTFTHeadConfig, WaveformHeadConfig
from emova.speech.features import MelConfig
from emova.speech.style import DEFAULT_STYLES
from emova.speech.tokenizer.whisper_vq.encoder import EncoderConfig
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQConfig, WhisperVQTokenizer
from emova_train.core.config import RunConfig
from emova_train.data.clip_reader import StreamConfig
from emova_train.flow import program
from emova_train.flow.config import FlowLossConfig, FlowRecipe
from emova_train.flow.data import Rows, Spoken, Utterances
from emova_train.flow.program import FlowTraining, build, parameter_groups
from emova_train.u2s.cache import SpeechStore, kinds_of_units, prepare, ticks_of
from emova_train.u2s.config import U2SDataConfig
from emova_train.u2s.discriminators import DiscriminatorConfig, Discriminators
from emova_train.u2s.prototypes import choose_prototypes
from tests.train.test_parallel import SECONDS, run_module
from tests.train.test_u2s_training import data  # noqa: F401  # a fixture: a shard of four utterances in two styles

MODEL = FlowHiFTConfig(
    unit_rate=12.5, speaker_size=8, hears_styles=True, style=StyleEncoderConfig(style_size=8, channels=8, n_mels=16),
    units=UnitEncoderConfig(codes=24, width=8, heads=2, ffn=16, layers=1, block=2),
    estimator=EstimatorConfig(channels=8, heads=2, head_width=4, blocks=1, middle=1, groups=2),
    mel=MelConfig(24_000, 960, 240, 16, 0.0, 12_000.0, -7.0, 4.5, 0.45), sound="istft",
    head=WaveformHeadConfig(istft=ISTFTHeadConfig(channels=16, lookahead=(1,))),
    steps=2, guidance=0.5, chunks=[2], context=4, fade=1,
)  # fmt: skip
HIFT = HiFTConfig(
    mels=16, sample_rate=24_000, channels=16, rates=(6, 5), rate_kernels=(12, 11), n_fft=16, short_hop=8, harmonics=2,
    pitch_channels=8, kernels=(3,), source_kernels=(3, 3), dilations=(1,),
)  # fmt: skip
HARMONIC = HarmonicConfig(8, 1, 20, 8, mels=16)


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 12.5 units a second with random weights."""
    folder = tmp_path_factory.mktemp("ears")
    torch.manual_seed(0)
    encoder = EncoderConfig(mels=80, width=8, heads=2, ffn=16, layers=1, positions=400, block=8, pooling=4, codes=24)
    WhisperVQTokenizer(WhisperVQConfig(encoder=encoder, running_floor=True)).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(data: Path, ears: Path, tmp_path: Path) -> FlowRecipe:  # noqa: F811
    shards = [str(data / "style-train-*.tar")]
    return FlowRecipe(
        model=MODEL, discriminators=DiscriminatorConfig(sizes=(480, 240), channels=(4, 4), strides=(4, 4)),
        losses=FlowLossConfig(adversarial_start=2, sizes=(480, 960), mels=(20, 30), sound_frames=24, edge=4),
        data=U2SDataConfig(
            train=shards, validation=shards, cache=str(data / "cache"), tokenizer=str(ears), processes=1,
            window_units=5, reference_seconds=0.4, validation_windows=2, digit_noise=0.0,
        ),
        run=RunConfig(
            str(tmp_path / "run"), max_steps=4, batch_size=2, learning_rate=2e-3, save_every=2, eval_every=4,
            log_every=1, precision="fp32",
        ),
        samples=1,
    )  # fmt: skip


def store_of(recipe: FlowRecipe) -> SpeechStore:
    prepare(recipe.data)
    return SpeechStore(recipe.data.train, recipe.data.cache, *kinds_of_units(recipe.data), ticks=2)


def batch_of(recipe: FlowRecipe) -> dict[str, torch.Tensor]:
    np.random.seed(0)
    utterances = Utterances(store_of(recipe), recipe.data)
    return Rows.of(recipe, 2)([utterances[index] for index in range(4)])


# --- rows -------------------------------------------------------------------------------------------------------------
def test_units_that_last_80_ms_stand_at_two_ticks(recipe: FlowRecipe, ears: Path) -> None:
    store = store_of(recipe)
    each = store.utterances[1]
    assert each.units == 14 and store.units(1).shape == (7,) and store.units(1).max() < 24
    plain = SpeechStore(recipe.data.train, recipe.data.cache, *kinds_of_units(recipe.data))
    assert np.array_equal(plain.units(1), np.repeat(store.units(1), 2))
    assert (ticks_of(25), ticks_of(12.5), ticks_of(6.25)) == (1, 2, 4)
    with pytest.raises(InputError, match="12"):
        ticks_of(50)


def spoken(units: int) -> Spoken:
    """Units that are numbered, sound and pitch that tell where they are."""
    numbers = np.arange(units)
    return Spoken(numbers, np.repeat(numbers, 1920).astype(np.float32), np.repeat(numbers, 8), np.zeros(9, np.float32))


@pytest.mark.parametrize("longest", [3, 5, 12, 40])
def test_rows_cut_at_blocks_are_what_a_chunk_of_a_stream_sees(longest: int) -> None:
    rows, seen = Rows(0, 2, 480, block=2, context=4, fade=1), set()
    for seed in range(40):
        np.random.seed(seed)
        batch = rows([spoken(longest), spoken(longest + 3)])
        count, given = batch["units"].shape[1], int(batch["given"][0])
        seen.add(count)
        assert count % 2 == 0 and count <= 6 and given == max(0, count - 3 if count > 2 else 0)
        for row, start in enumerate(batch["units"][:, 0].tolist()):
            assert start % 2 == 0 and (count == 6 or start == 0), "blocks begin where the utterance does"
            assert batch["units"][row].tolist() == list(range(start, start + count))
            assert batch["audio"][row, 480:-480].tolist() == np.repeat(np.arange(start, start + count), 1920).tolist()
            assert batch["f0"][row].tolist() == np.repeat(np.arange(start, start + count), 8).tolist()
    assert seen == {size for size in (2, 4, 6) if size <= longest}


def test_the_frames_of_a_row_are_those_of_the_whole_utterance(recipe: FlowRecipe) -> None:
    """A row's first and last frames hear what lies around it: no block ends in a silence that is not there."""
    store, mel = store_of(recipe), FlowTraining(recipe).mel
    utterance = Utterances(store, recipe.data)[0]
    whole = mel(torch.from_numpy(utterance.samples)[None])
    np.random.seed(1)
    batch = Rows(4, 2, 480)([utterance])
    start = next(
        start for start in range(4) if batch["units"][0].tolist() == utterance.units[start : start + 4].tolist()
    )
    found = mel.windows(batch["audio"])[..., :32]
    assert (found - whole[..., start * 8 : start * 8 + 32]).abs().max() < 1e-5


# --- losses -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("sound", "styled"), [("istft", False), ("istft", True), ("hift", False), ("harmonic", False)])
def test_losses_fall_and_reach_every_part(recipe: FlowRecipe, sound: str, styled: bool) -> None:
    vocoder = HIFT if sound == "hift" else MODEL.vocoder
    model = replace(MODEL, sound=sound, vocoder=vocoder, harmonic=HARMONIC, styled_units=styled)
    recipe = replace(recipe, model=model)
    training, batch = build(recipe).train(), batch_of(recipe)
    groups = parameter_groups(recipe, training)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(parameter) for parameter in training.parameters()}
    optimizer = torch.optim.AdamW([{"params": group["params"]} for group in groups], 5e-3)
    curve: list[dict[str, float]] = []
    for _ in range(25):
        terms = training(**batch)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        curve.append({name: float(value.detach()) for name, value in terms.items()})
    assert "adversarial" not in curve[1] and {"adversarial", "feature", "discriminator"} <= set(curve[2])
    assert np.median([each["mel"] for each in curve[-5:]]) < 0.8 * curve[0]["mel"]
    assert np.mean([each["flow"] for each in curve[-5:]]) < 0.95 * np.mean([each["flow"] for each in curve[:3]])
    untouched = [name for name, parameter in training.named_parameters() if parameter.grad is None]
    assert untouched == []


def test_the_flow_learns_one_sentence(recipe: FlowRecipe) -> None:
    """From noise, by its few steps, it draws the frames that it was shown far better than an untrained one."""
    model = replace(MODEL, estimator=replace(MODEL.estimator, channels=32), guidance=0.0, steps=4)
    recipe = replace(recipe, model=model, parts=["flow"], losses=replace(recipe.losses, dropped=0.0, prompted=0.0))
    training, batch = build(recipe).train(), batch_of(recipe)
    mel = training.mel.windows(batch["audio"])[..., :40]
    noise = torch.randn(mel.shape, generator=torch.Generator().manual_seed(3))

    def distance() -> float:
        voice = training.detokenizer
        with torch.no_grad():
            style = voice.embed_style(batch["reference"], batch["reference_lengths"])
            return float((voice.flow(batch["units"], style, mel[..., :0], noise, 40) - mel).abs().mean())

    before = distance()
    optimizer = torch.optim.AdamW([p for p in training.parameters() if p.requires_grad], 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        training(**batch)["loss"].backward()
        optimizer.step()
    assert distance() < 0.8 * before


def test_harmonics_keep_the_pitch_that_drives_them() -> None:
    """Whatever the gains are: the loudest period of the sound is that of the F0, and without a voice there is noise."""
    torch.manual_seed(0)
    vocoder = HarmonicNoise(HarmonicConfig(8, 1, 40, 8, mels=16)).eval()
    mel, noise = torch.randn(1, 16, 100), 0.01 * torch.randn(1, 41, 24_000)

    def peak(hz: float) -> tuple[float, float]:
        source, _ = vocoder.source(torch.full((1, 100), hz), torch.zeros(1).double(), torch.zeros(1, 41), noise)
        with torch.no_grad():
            sound = vocoder(mel, source)[0]
        power = torch.fft.rfft(sound * torch.hann_window(24_000), n=1 << 16).abs().square()
        lags = torch.fft.irfft(power)[: 24_000 // 50]
        first = 24_000 // 400
        return 24_000 / (first + int(lags[first:].argmax())), float(lags[first:].max() / lags[0])

    for hz in (110.0, 187.5, 300.0):
        told, voiced = peak(hz)
        assert abs(told / hz - 1) < 0.02 and voiced > 0.5
    assert peak(0.0)[1] < 0.5


@pytest.mark.parametrize("styled", [False, True])
def test_mean_frames_are_in_the_style_where_the_units_encoder_hears_it(styled: bool) -> None:
    torch.manual_seed(0)
    flow = FlowHiFTDetokenizer(replace(MODEL, styled_units=styled)).eval().flow
    units, styles = torch.arange(6)[None].expand(2, -1), torch.randn(2, 8)
    with torch.no_grad():
        (one, other), _ = flow.condition(units, styles, 48)
        twice, _ = flow.condition(units[:1], 3 * styles[:1], 48)
    assert torch.equal(one, other) is not styled and (twice[0] - one).abs().max() < 1e-5


def test_a_style_vector_tells_the_pitch_of_its_speech(recipe: FlowRecipe) -> None:
    """Two voices an octave apart: their vectors come apart by it, and rows without voice ask for nothing."""
    recipe = replace(recipe, parts=["flow"], losses=replace(recipe.losses, style_pitch=10.0))
    training = build(recipe).train()
    times = torch.arange(24_000) / 24_000
    reference = torch.stack([0.1 * torch.sign(torch.sin(2 * torch.pi * hz * times)) for hz in (110.0, 220.0)])
    lengths = torch.tensor([24_000, 24_000])
    f0 = torch.stack([torch.full((100,), 110.0), torch.full((100,), 220.0)])
    encoder = training.detokenizer.style_encoder
    assert encoder is not None

    def asked(f0_BF: torch.Tensor) -> torch.Tensor:
        return training._style_pitch(encoder(reference, lengths), f0_BF)

    assert float(asked(torch.zeros_like(f0)).detach()) == 0.0
    learnt = [*encoder.parameters(), *training.pitch_of_style.parameters()]
    optimizer = torch.optim.AdamW(learnt, 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        asked(f0).backward()
        optimizer.step()
    with torch.no_grad():
        told = training.pitch_of_style(torch.nn.functional.normalize(encoder(reference, lengths), dim=1))
    assert 0.8 < float(told[1, 0] - told[0, 0]) < 1.2


def test_hifigans_discriminators_judge_beside_the_others() -> None:
    config = DiscriminatorConfig(sizes=(480,), channels=(4,), strides=(4,), periods=(2, 3), period_channels=2, scales=2,
                                 scale_channels=16)  # fmt: skip
    judges = Discriminators(config)
    sound = torch.randn(2, 4801, requires_grad=True)
    scores, maps = judges(sound)
    assert len(scores) == len(maps) == 5 and all(len(each) >= 1 for each in maps)
    sum(score.mean() for score in scores).backward()
    assert sound.grad is not None and bool(sound.grad.any())
    paper = load_config(FlowRecipe, "paper-pretrain", kind="flow").discriminators
    assert (tuple(paper.periods), paper.scales) == ((2, 3, 5, 7, 11), 3)


# --- whole runs -------------------------------------------------------------------------------------------------------
def test_two_stages_export_a_voice(recipe: FlowRecipe, tmp_path: Path) -> None:
    result = program.train(recipe)
    assert result.steps == 4 and {"flow", "prior", "mel", "mel_distance"} <= set(result.eval_terms)
    first = tmp_path / "run" / "export"
    blocks = replace(
        recipe, initial=str(first), cut_at_blocks=True, run=replace(recipe.run, output_dir=str(tmp_path / "blocks"))
    )
    assert program.train(blocks).steps == 4
    voice = load_detokenizer(tmp_path / "blocks" / "export")
    assert isinstance(voice, FlowHiFTDetokenizer) and voice.lookahead_units == 1
    style = voice.embed_style(torch.randn(1, 9000) * 0.1)
    units = torch.randint(0, 24, (1, 7))
    assert voice.decode(units, style).shape == (1, 7 * 1920)
    assert (tmp_path / "blocks" / "export" / "units.json").is_file() and list((tmp_path / "run" / "samples").iterdir())
    assert not any("discriminator" in name for name in voice.state_dict())
    # The vocoder alone: flow and styles stay.
    alone = replace(
        blocks, parts=["vocoder"], cut_at_blocks=False, run=replace(recipe.run, output_dir=str(tmp_path / "v"))
    )
    program.train(alone)
    before, after = (
        load_file(folder / "export" / "model.safetensors") for folder in (tmp_path / "run", tmp_path / "v")
    )
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vocoder"}


def test_an_interrupted_run_goes_on_exactly(recipe: FlowRecipe, tmp_path: Path) -> None:
    program.train(recipe)
    short = replace(recipe, run=replace(recipe.run, output_dir=str(tmp_path / "short")))
    program.train(short)
    for path in (tmp_path / "short").iterdir():
        if path.name.endswith("4") and path.is_dir():
            import shutil

            shutil.rmtree(path)
    program.train(short)
    one, two = (load_file(tmp_path / name / "export" / "model.safetensors") for name in ("run", "short"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_all_styles_get_a_vector(recipe: FlowRecipe) -> None:
    voice, store = build(recipe).detokenizer.eval(), store_of(recipe)
    base = store.utterances[0]
    store.utterances = [
        replace(base, key=f"{style.key}-{n}", gender=style.gender, emotion=style.emotion, pitch=style.pitch)
        for style in DEFAULT_STYLES.all
        for n in range(4)
    ]
    prototypes, _ = choose_prototypes(voice, store, candidates=2, shortlist=1, sentences=1, min_units=10)
    assert prototypes.size == 8 and len(list(DEFAULT_STYLES.all)) == 24


def test_what_does_not_fit_is_told(recipe: FlowRecipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shipped config flow/nano"):
        program.train(FlowRecipe())
    with pytest.raises(InputError, match=r"data\.stream\.enabled: this decoder learns from the cache"):
        program.train(replace(recipe, data=replace(recipe.data, stream=StreamConfig(enabled=True))))
    with pytest.raises(InputError, match="hears_styles"):
        build(replace(recipe, model=replace(MODEL, hears_styles=False)))
    with pytest.raises(InputError, match=r"12\.5 of 24"):
        program.train(replace(recipe, model=replace(MODEL, unit_rate=25.0)))
    with pytest.raises(InputError, match="flow, vocoder or both"):
        replace(recipe, parts=["ears"])
    with pytest.raises(InputError, match=r"model\.context"):
        replace(recipe, cut_at_blocks=True, model=replace(MODEL, context=0))
    with pytest.raises(InputError, match="its rate, hop and mels"):
        replace(MODEL, sound="hift")
    with pytest.raises(InputError, match="harmonic: its rate, hop and mels"):
        replace(MODEL, sound="harmonic")
    with pytest.raises(InputError, match="both alike"):
        replace(MODEL, sound="hifigan")
    build(recipe).detokenizer.save_pretrained(tmp_path / "voice")
    with pytest.raises(InputError, match="sizes differ"):
        build(replace(recipe, initial=str(tmp_path / "voice"), model=replace(MODEL, mel=replace(MODEL.mel, shift=1.0))))


@pytest.mark.parametrize("name", ["nano", "nano_blocks", "paper-pretrain", "paper-blocks"])
def test_the_shipped_configs_hold_together(name: str) -> None:
    loaded = load_config(FlowRecipe, name, kind="flow")
    model = loaded.model
    assert model.chunks == [10] and model.context % model.units.block == 0 and model.hears_styles
    assert len(loaded.losses.sizes) == len(loaded.losses.mels)
    with torch.device("meta"):
        assert FlowHiFTDetokenizer(model).lookahead_units == 9


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_two_processes_train_one_voice(recipe: FlowRecipe, tmp_path: Path) -> None:
    path = tmp_path / "flow.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config_dict(recipe)))))
    out = f"run.output_dir={tmp_path}/two"
    jobs = [["flow", str(path), [out], ""], ["flow", str(path), [out], str(tmp_path / "again")]]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run_module(["tests.train.codec_worker", str(tmp_path / "jobs.json")], 2, tmp_path)
    one, two = (load_file(tmp_path / name / "export" / "model.safetensors") for name in ("two", "again"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
