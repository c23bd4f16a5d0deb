"""The laws of the protocols, over every kind of tokenizer and detokenizer that the registry has.

A kind that joins the registry must be built in ``EARS`` or ``VOICES``: the tests name those that are missing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from emova.checkpoint.registry import DETOKENIZERS, TOKENIZERS, load_detokenizer, load_tokenizer
from emova.core.errors import InputError
from emova.core.weights import SCALE_SUFFIX
from emova.speech.detokenizer.base import DetokenizerModule
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.tokenizer.base import TokenizerModule
from emova.speech.tokenizer.protocol import SpeechTokenizer
from tests.fixtures_codecs import EARS, FLOW, VOICES

ANY_CUT = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def speech(rows: int, length: int, seed: int = 0) -> Tensor:
    """Noise under a changing envelope."""
    generator = torch.Generator().manual_seed(seed)
    envelope = torch.sin(torch.arange(length) / 900.0).square() + 0.05
    return torch.randn(rows, length, generator=generator) * envelope * 0.2


def build(makers: dict[str, Callable[[], torch.nn.Module]], name: str) -> torch.nn.Module:
    if name not in built:
        torch.manual_seed(0)
        built[name] = makers[name]().eval()
    return built[name]


built: dict[str, torch.nn.Module] = {}


@pytest.fixture(params=sorted(EARS))
def ears(request: pytest.FixtureRequest) -> TokenizerModule:
    found = build(EARS, request.param)
    assert isinstance(found, TokenizerModule)
    return found


@pytest.fixture(params=sorted(VOICES))
def voice(request: pytest.FixtureRequest) -> DetokenizerModule:
    found = build(VOICES, request.param)
    assert isinstance(found, DetokenizerModule)
    return found


def size_of(kept: object, seen: set[int] | None = None) -> int:
    """Numbers in the tensors that an object holds, itself or by what it holds; modules are shared and do not count."""
    seen = set() if seen is None else seen
    if id(kept) in seen or isinstance(kept, torch.nn.Module):
        return 0
    seen.add(id(kept))
    if isinstance(kept, Tensor):
        return kept.numel()
    if isinstance(kept, dict):
        return sum(size_of(each, seen) for each in kept.values())
    if isinstance(kept, list | tuple):
        return sum(size_of(each, seen) for each in kept)
    return sum(size_of(each, seen) for each in vars(kept).values()) if hasattr(kept, "__dict__") else 0


def check_kept(part: torch.nn.Module, read: torch.nn.Module, folder: Path) -> None:
    """What was read is what was saved: to the last bit, but for rows of int8, which are a hundredth near."""
    stored, found = load_file(folder / "model.safetensors"), read.state_dict()
    assert found.keys() == part.state_dict().keys()
    for name, value in part.state_dict().items():
        if name in stored and stored[name].dtype == value.dtype:
            assert torch.equal(found[name], value), name
        else:
            assert (found[name] - value).abs().max() <= 0.01 * value.abs().max(), name


def test_every_kind_of_the_registry_is_here() -> None:
    assert {name.partition(" ")[0] for name in EARS} >= set(TOKENIZERS.built_in)
    assert {name.partition(" ")[0] for name in VOICES} >= set(DETOKENIZERS.built_in)


# --- tokenizers -------------------------------------------------------------------------------------------------------
def test_ears_are_what_the_protocol_says(ears: TokenizerModule) -> None:
    assert isinstance(ears, SpeechTokenizer) and ears.codebook_size > 1 and ears.unit_rate > 0
    for length in (0, 1, ears.unit_samples, ears.unit_samples + 1, 4 * ears.unit_samples + 17):
        (units,) = ears.encode(speech(1, length))
        wanted, joined = -(-length // ears.unit_samples), getattr(ears.config, "joined", False)
        assert units.dtype == torch.int64 and len(units) <= wanted and (joined or len(units) == wanted)
        assert not len(units) or (int(units.min()) >= 0 and int(units.max()) < ears.codebook_size)


@ANY_CUT
@given(cuts=st.lists(st.integers(0, 30_000), max_size=6), length=st.sampled_from([1, 2999, 24_000, 70_001]))
def test_heard_in_any_pieces_it_is_the_same(ears: TokenizerModule, cuts: list[int], length: int) -> None:
    samples = speech(1, length)
    offline = torch.stack(ears.encode(samples))
    with ears.streaming(1) as stream:
        found, at = [], 0
        for size in [*cuts, length]:
            found.append(stream.step(samples[:, at : at + size]))
            at += size
        found.append(stream.finish())
    assert torch.equal(torch.cat(found, dim=1), offline)


def test_a_row_is_heard_as_if_alone(ears: TokenizerModule) -> None:
    samples, lengths = speech(3, 30_000), torch.tensor([30_000, 7001, 640])
    for row, length, units in zip(samples, lengths.tolist(), ears.encode(samples, lengths), strict=True):
        assert torch.equal(units, ears.encode(row[None, :length])[0])


def test_saved_ears_are_the_same_to_the_last_bit(ears: TokenizerModule, tmp_path: Path) -> None:
    ears.save_pretrained(tmp_path / "one")
    read = load_tokenizer(tmp_path / "one")
    assert isinstance(read, TokenizerModule)
    check_kept(ears, read, tmp_path / "one")
    read.save_pretrained(tmp_path / "two")  # int8 rows that were read are stored as before
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    again, samples = load_tokenizer(tmp_path / "two"), speech(1, 20_000)
    assert torch.equal(again.encode(samples)[0], read.encode(samples)[0])


def test_a_listening_stream_stays_small(ears: TokenizerModule) -> None:
    """What it keeps after a long recording is no more than after a short one, but for kinds that wait for its end."""
    from emova.speech.tokenizer.base import WaitingStream

    with ears.streaming(1) as stream:
        if isinstance(stream, WaitingStream):
            pytest.skip("gives its units at the end of the recording")
        sizes = []
        for _ in range(24):  # 38 s; what is counted within a clip grows up to its end
            stream.step(speech(1, 25_600))
            sizes.append(size_of(stream))
    assert max(sizes[12:]) <= max(sizes[:12])


def test_bad_sound_is_refused(ears: TokenizerModule, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shape"):
        ears.encode(torch.zeros(640))
    with ears.streaming(1) as stream:
        with pytest.raises(InputError, match=r"\[1, T\]"):
            stream.step(torch.zeros(2, 640))
        stream.finish()
        with pytest.raises(InputError, match="ended"):
            stream.step(torch.zeros(1, 640))
    broken(ears, tmp_path, load_tokenizer)


# --- detokenizers -----------------------------------------------------------------------------------------------------
def units_for(voice: DetokenizerModule, rows: int, count: int) -> Tensor:
    assert isinstance(voice, SpeechDetokenizer)
    return torch.randint(0, voice.codebook_size, (rows, count), generator=torch.Generator().manual_seed(count))


def style_for(voice: DetokenizerModule, rows: int) -> Tensor:
    assert isinstance(voice, SpeechDetokenizer)
    return torch.randn(rows, voice.style_size, generator=torch.Generator().manual_seed(1))


@ANY_CUT
@given(cuts=st.lists(st.integers(0, 9), max_size=6), count=st.sampled_from([1, 5, 23]))
def test_spoken_in_any_pieces_it_is_the_same(voice: DetokenizerModule, cuts: list[int], count: int) -> None:
    assert isinstance(voice, SpeechDetokenizer)
    units, style = units_for(voice, 1, count), style_for(voice, 1)
    whole, stream = voice.decode(units, style), voice.streaming(style)
    found, at = [], 0
    for size in cuts:
        found.append(stream.step(units[:, at : at + size]))
        at += size
    found.append(stream.finish(units[:, at:]))
    joined = torch.cat(found, dim=1)
    assert joined.shape == whole.shape and (joined - whole).abs().max() < 1e-4
    assert torch.isfinite(whole).all() and whole.abs().max() <= 1


def test_a_row_is_spoken_as_if_alone(voice: DetokenizerModule) -> None:
    assert isinstance(voice, SpeechDetokenizer)
    units, style = units_for(voice, 2, 13), style_for(voice, 2)
    together, alone = voice.decode(units, style), voice.decode(units[1:], style[1:])
    assert (together[1, : alone.shape[1]] - alone[0]).abs().max() < 1e-5


def test_the_first_sound_needs_what_the_voice_says(voice: DetokenizerModule) -> None:
    assert isinstance(voice, SpeechDetokenizer)
    ahead = voice.lookahead_units
    if ahead > 1000:
        pytest.skip("waits for the last unit")
    units, style = units_for(voice, 1, ahead + 1), style_for(voice, 1)
    assert voice.streaming(style).step(units).shape[1] > 0


def test_nothing_said_is_no_sound(voice: DetokenizerModule) -> None:
    assert isinstance(voice, SpeechDetokenizer)
    style = style_for(voice, 1)
    assert voice.streaming(style).finish().shape == (1, 0)
    assert voice.decode(torch.zeros(1, 0, dtype=torch.long), style).shape == (1, 0)


def test_saved_voices_are_the_same_to_the_last_bit(voice: DetokenizerModule, tmp_path: Path) -> None:
    voice.save_pretrained(tmp_path / "one")
    read = load_detokenizer(tmp_path / "one")
    assert isinstance(read, DetokenizerModule)
    check_kept(voice, read, tmp_path / "one")
    read.save_pretrained(tmp_path / "two")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    again, units, style = load_detokenizer(tmp_path / "two"), units_for(voice, 1, 9), style_for(voice, 1)
    assert isinstance(read, SpeechDetokenizer)
    assert torch.equal(again.decode(units, style), read.decode(units, style))


def test_a_speaking_stream_stays_small(voice: DetokenizerModule) -> None:
    """What a stream keeps does not grow with what was said, so neither does what a chunk costs."""
    assert isinstance(voice, SpeechDetokenizer)
    if voice.lookahead_units > 1000 or (hasattr(voice.config, "context") and not voice.config.context):
        pytest.skip("is given all that was said before, as its release has it")
    stream, sizes = voice.streaming(style_for(voice, 1)), []
    for _ in range(16):
        stream.step(units_for(voice, 1, 12))
        sizes.append(size_of(stream))
    assert max(sizes[8:]) <= max(sizes[:8])


def test_bad_units_are_refused(voice: DetokenizerModule, tmp_path: Path) -> None:
    assert isinstance(voice, SpeechDetokenizer)
    style = style_for(voice, 1)
    for wrong in (-1, voice.codebook_size):
        with pytest.raises(InputError, match="another tokenizer"):
            voice.decode(torch.tensor([[0, wrong]]), style)
        with pytest.raises(InputError, match="another tokenizer"):
            voice.streaming(style).finish(torch.tensor([[wrong]]))
    broken(voice, tmp_path, load_detokenizer)


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {each: tensor for each, tensor in tensors.items() if each != name}


def broken(part: TokenizerModule | DetokenizerModule, folder: Path, load: Callable[[Path], object]) -> None:
    """A folder with something wrong is refused with one line."""
    part.save_pretrained(folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    said, kept = config.read_text(), weights.read_bytes()

    def refused(match: str) -> None:
        with pytest.raises(InputError, match=match) as found:
            load(folder)
        assert "\n" not in str(found.value)

    config.write_text(json.dumps(json.loads(said) | {"wings": 2}))
    refused("wings")
    config.write_text(json.dumps(json.loads(said) | {"kind": "telepathy"}))
    refused("telepathy")
    config.write_text(said[:-9])
    refused("damaged")
    config.write_text(said)
    stored = load_file(weights)
    spare = part.optional if isinstance(part, TokenizerModule) else ()
    whole = [each for each in sorted(stored) if not each.startswith(spare) and stored[each].dim()]
    scale = next((each for each in whole if each.endswith(SCALE_SUFFIX)), None)
    name = next(each for each in whole if stored[each].is_floating_point() and SCALE_SUFFIX not in each)
    for other, told in (
        (without(stored, name), "its config and weights differ"),
        (stored | {name: stored[name][:-1].contiguous()}, "its config and weights differ"),
        (stored | {"wings": torch.zeros(2)}, "its config and weights differ"),
        *([(without(stored, scale), "damaged")] if scale else []),
        *([(stored | {scale: stored[scale][:-1].contiguous()}, "damaged")] if scale else []),
    ):
        save_file(other, weights)
        refused(told)
    weights.write_bytes(kept[: len(kept) // 2])
    refused("damaged")
    weights.unlink()
    refused("missing")


def numbers(values: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in a config there are numbers."""
    inside = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inside:
        yield from numbers(value, (*path, key))
    if isinstance(values, int | float) and not isinstance(values, bool):
        yield path


@pytest.mark.parametrize("name", [*(each for each in (*EARS, *VOICES) if " " not in each), "flow_hift bounded"])
def test_a_config_that_does_not_fit_its_weights_is_one_line(name: str, tmp_path: Path) -> None:
    """A number of it changed, by little or to what no layer has: it is refused in a line, or fits all the same."""
    part, load = build(EARS if name in EARS else VOICES, name), load_tokenizer if name in EARS else load_detokenizer
    assert isinstance(part, TokenizerModule | DetokenizerModule)
    part.save_pretrained(tmp_path)
    said, told = (tmp_path / "config.json").read_text(), list[str]()
    places = list(numbers(json.loads(said)))
    random.Random(name).shuffle(places)  # all of them take a minute
    for tried, (*above, last) in enumerate(places):
        if tried >= 6 and any("config and weights differ" in line for line in told):
            break
        for change in (lambda value: value + 1, lambda value: -1):
            config = inner = json.loads(said)
            for key in above:
                inner = inner[key]
            inner[last] = change(inner[last])
            (tmp_path / "config.json").write_text(json.dumps(config))
            try:
                load(tmp_path)
            except InputError as error:
                told.append(str(error))
    assert any("config and weights differ" in line for line in told)
    assert all(str(tmp_path) in line and ";" in line and "\n" not in line and len(line) < 500 for line in told), told


def test_a_chunk_may_be_drawn_with_all_that_was_said_or_with_less() -> None:
    """With a context as long as what was said before, the frames are those of the release's way, but for the noise."""
    from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer

    voice = build(VOICES, "flow_hift bounded")
    assert isinstance(voice, FlowHiFTDetokenizer)
    units, style, before = units_for(voice, 1, 12), style_for(voice, 1), voice.config
    try:
        voice.config = voice.flow.config = replace(before, context=1000)
        long = voice.decode(units, style)
        voice.config = voice.flow.config = before
        short = voice.decode(units, style)
    finally:
        voice.config = voice.flow.config = before
    # The first chunks see the same, later ones less.
    same = (before.chunks[0] + before.context - before.fade) * 1920
    assert torch.allclose(long[:, : same - 4000], short[:, : same - 4000], atol=1e-4)
    assert not torch.allclose(long, short, atol=1e-4)


@pytest.mark.parametrize("name", ["flow_hift bounded", "flow_hift bounded, its own vocoder"])
def test_joints_of_chunks_cannot_be_heard(name: str) -> None:
    """Where chunks meet, level, spectrum and samples jump no more than elsewhere; a click would be seen."""
    from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer
    from emova_bench.codec import joints, jumps

    voice = build(VOICES, name)
    assert isinstance(voice, FlowHiFTDetokenizer)
    sound = voice.decode(units_for(voice, 1, 120), style_for(voice, 1))[0].numpy()
    places = joints(voice, 120)
    assert len(places) == 2 * 29
    elsewhere = [place for place in range(1000, len(sound) - 1000, 487) if min(abs(place - at) for at in places) > 600]
    inside, between = jumps(sound, 24_000, elsewhere), jumps(sound, 24_000, places)
    assert all(joint < 1.5 * usual for joint, usual in zip(between, inside, strict=True))
    # What would be seen: a tone that is cut and goes on elsewhere, louder.
    tone = np.sin(np.arange(len(sound)) / 30)
    for at in places:
        tone[at : at + 240] = 3 * tone[at : at + 240] + 1
    clicks, smooth = jumps(tone, 24_000, places), jumps(tone, 24_000, elsewhere)
    assert clicks[0] > 1.5 * smooth[0] and clicks[2] > 1.5 * smooth[2]


@pytest.mark.parametrize("fade", [0, 1])
def test_a_chunk_is_drawn_after_what_was_said_and_faded_into_it(fade: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that would be drawn on different levels: each is given the finished frames, and takes over slowly."""
    from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer

    voice = FlowHiFTDetokenizer(replace(FLOW, fade=fade)).eval()  # chunks of four units, a unit of eight frames
    given: list[Tensor] = []
    heard: list[Tensor] = []

    class Heard:
        def step(self, mel_BMF: Tensor, ended: bool) -> Tensor:
            heard.append(mel_BMF)
            return torch.zeros(1, 0)

    def drawn(units_BU: Tensor, speaker_BS: Tensor, given_BMF: Tensor, noise_BMF: Tensor, frames: int) -> Tensor:
        given.append(given_BMF.clone())
        return torch.full((1, FLOW.mels, frames), float(len(given)))

    monkeypatch.setattr(voice.flow, "forward", drawn)
    monkeypatch.setattr(voice, "sound", lambda speaker_BS: Heard())
    stream = voice.streaming(torch.zeros(1, FLOW.speaker_size))
    for unit in range(12):
        stream.step(torch.tensor([[unit]]))
    stream.finish()
    mel = torch.cat(heard, dim=2)
    levels, over = mel[0, 0], 8 * fade
    assert mel.shape == (1, FLOW.mels, 96) and (mel == levels).all()
    for chunk in (1, 2, 3):
        alone = levels[32 * (chunk - 1) : 32 * chunk - (over if chunk < 3 else 0)]
        assert (alone == chunk).all()
    for joint in (32, 64):
        steps = levels[joint - over - 1 : joint + 1].diff()
        # A Hamming window's two halves make 1.08 where they meet the frames beside.
        assert float(steps.max()) < 0.3 and float(steps.min()) > -0.2 if fade else float(steps.max()) == 1.0
    # Six units before a chunk are all that it is given.
    assert given[0].shape[2] == 0 and torch.equal(given[1], mel[..., : 32 - over])
    assert torch.equal(given[2], mel[..., 16 : 64 - over])


@pytest.mark.parametrize("name", ["u2s", "flow_hift bounded", "flow_hift bounded, its own vocoder"])
def test_a_voice_has_24_styles_and_that_of_a_recording(name: str) -> None:
    """Each style sounds, spoken bit by bit as at once; a recording's own vector is a style like the others."""
    from emova.speech.style import DEFAULT_STYLES, StylePrototypes
    from emova.speech.voice import Voice

    part = build(VOICES, name)
    assert isinstance(part, SpeechDetokenizer) and isinstance(part, DetokenizerModule)
    mine = part.embed_style(speech(1, 24_000))[0]
    vectors = {style.key: style_for(part, 24)[row] for row, style in enumerate(DEFAULT_STYLES.all)}
    vectors[DEFAULT_STYLES.default.key] = mine
    voice, units = Voice(part, StylePrototypes(vectors, DEFAULT_STYLES)), units_for(part, 1, 14)[0].tolist()
    spoken = [voice.synthesize(units, style) for style in DEFAULT_STYLES.all]
    assert len({sound.tobytes() for sound in spoken}) == 24
    assert np.array_equal(spoken[0], part.decode(torch.tensor([units]), mine[None])[0].numpy())
    speaking, pieces = voice.start(DEFAULT_STYLES.default), []
    for unit in units:
        pieces.append(speaking.step([unit]))
    first = next(number for number, piece in enumerate(pieces, start=1) if len(piece))
    pieces.append(speaking.finish())
    assert np.allclose(np.concatenate(pieces), spoken[0], atol=1e-4)
    if name != "u2s":
        assert first == part.lookahead_units + 1 == 4, "a chunk's sound comes with its last unit"
