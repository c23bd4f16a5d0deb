"""GLM-4-Voice's speech parts: as their authors' code gives it, streams keep their law, the way back is exact."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from emova.checkpoint.importing import glm_voice
from emova.checkpoint.importing.mapping import give
from emova.checkpoint.importing.source import read_yaml, section
from emova.checkpoint.loading import load_voice
from emova.checkpoint.registry import load_detokenizer, load_tokenizer
from emova.cli.main import main
from emova.core.errors import InputError
from emova.core.streams import run
from emova.speech.detokenizer.base import DetokenizerModule
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTConfig, FlowHiFTDetokenizer
from emova.speech.detokenizer.flow_hift.sound import REACH
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.tokenizer.base import TokenizerModule
from emova.speech.tokenizer.protocol import SpeechTokenizer, TokenizerStream
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQConfig, WhisperVQStream, WhisperVQTokenizer
from tests.importing.fixtures_glm import TOKENIZER as SAID
from tests.importing.fixtures_glm import YAML, write_speech_releases
from tests.importing.official import fill_all, keys, of
from tests.importing.test_emova_tokenizer import voices


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Both releases, reduced, as they lie on a hub."""
    return write_speech_releases(tmp_path_factory.mktemp("glm") / "release")


def bring(release, out, *options: str, code: int = 0) -> None:
    tokenizer, decoder = str(release / "tokenizer"), str(release / "decoder")
    line = ["import", "glm-4-voice", tokenizer, "--decoder", decoder, "--out", str(out), "--quiet", *options]
    assert main(line) == code


@pytest.fixture(scope="module")
def folder(release):
    bring(release, release / "imported")
    return release / "imported"


@pytest.fixture(scope="module")
def ears(folder) -> WhisperVQTokenizer:
    return WhisperVQTokenizer.from_pretrained(folder / "speech_tokenizer")


@pytest.fixture(scope="module")
def voice(folder) -> FlowHiFTDetokenizer:
    return FlowHiFTDetokenizer.from_pretrained(folder / "speech_detokenizer")


# --- golden -----------------------------------------------------------------------------------------------------------
def test_units_equal_those_of_the_release(ears) -> None:
    facts = of("whispervq")
    valid = facts["token_mask"][1].bool()
    audio = facts["waveform_b"][None]
    with torch.inference_mode():
        vectors = ears(audio, torch.tensor([audio.shape[1]]))
        assert (vectors[0] - facts["pooled"][0][valid]).abs().max() < 1e-4
        assert torch.equal(ears.encode(audio)[0], facts["token_ids"][1][valid])
        assert torch.equal(ears.encoder.nearest(facts["vq_input"]), facts["vq_ids"])


def test_mel_frames_equal_those_of_the_release(voice) -> None:
    facts = of("flow")
    nobody, nothing = torch.zeros(1, 24), torch.zeros(1, 16, 0)
    with torch.no_grad():
        plain = voice.flow(facts["token"], nobody, nothing, facts["noise"])
        assert (plain - facts["plain.mel"]).abs().max() < 1e-4
        units = torch.cat([facts["prompt_token"], facts["token"]], dim=1)
        given = facts["prompt_feat"].transpose(1, 2)
        whole = voice.flow(units, facts["embedding"], given, facts["noise"])
        assert (whole[..., given.shape[2] :] - facts["prompt.mel"]).abs().max() < 1e-4


def test_sound_equals_that_of_the_release(voice) -> None:
    facts = of("hift")
    vocoder = voice.vocoder
    with torch.no_grad():
        f0 = vocoder.pitch(facts["mel"])
        assert (f0 - facts["f0"]).abs().max() < 1e-3  # Hz
        still = torch.zeros(1, 9, f0.shape[1] * 256)
        source, _ = vocoder.source(f0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, 9), still)
        assert (vocoder(facts["mel"], source) - facts["zero_noise.waveform"]).abs().max() < 1e-4


def test_the_full_size_has_the_releases_shapes() -> None:
    ears_config, config = WhisperVQConfig(), FlowHiFTConfig()
    with torch.device("meta"):
        ears, voice = WhisperVQTokenizer(ears_config), FlowHiFTDetokenizer(config)
    names = glm_voice.tokenizer_names(ears_config)
    given = {name: list(tensor.shape) for name, tensor in give(names, ears.state_dict()).items()}
    released = keys()["glm_whispervq_encoder"]
    assert given.items() <= released.items()
    assert all(names.why_unused(name) for name in released if name not in given)
    flow = give(glm_voice.flow_names(config), voice.flow.state_dict())
    assert {name: list(tensor.shape) for name, tensor in flow.items()} == keys()["glm_flow"]
    vocoder = give(glm_voice.vocoder_names(config.vocoder), voice.vocoder.state_dict())
    assert {name: list(tensor.shape) for name, tensor in vocoder.items()} == keys()["glm_hift"]


# --- laws of the protocols --------------------------------------------------------------------------------------------
def test_both_are_parts_like_any_other(folder, ears, voice, tmp_path) -> None:
    assert isinstance(ears, SpeechTokenizer) and isinstance(voice, SpeechDetokenizer)
    assert ears.unit_rate == voice.unit_rate == 12.5
    for part, again in ((ears, load_tokenizer), (voice, load_detokenizer)):
        part.save_pretrained(tmp_path / type(part).__name__)
        read = again(tmp_path / type(part).__name__)
        assert isinstance(part, TokenizerModule | DetokenizerModule)
        assert isinstance(read, TokenizerModule | DetokenizerModule)
        assert read.config == part.config
        pairs = zip(part.state_dict().values(), read.state_dict().values(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    with pytest.raises(InputError, match="no encoder of speakers"):
        voice.embed_style(torch.zeros(1, 9000))


@pytest.mark.parametrize("samples", [0, 1, 200, 1280, 1281, 51_200, 51_201])
@pytest.mark.parametrize("running", [False, True])
def test_a_unit_for_every_80_ms_begun(ears, samples, running) -> None:
    ears.config = replace(ears.config, running_floor=running)
    assert len(ears.encode(voices(4.0)[:, :samples])[0]) == -(-samples // 1280)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("seconds", [0.05, 2.9, 7.31])
def test_heard_bit_by_bit_it_hears_the_same(ears, running, seconds) -> None:
    """Clips are 3.2 s here, blocks 0.8 s."""
    ears.config = replace(ears.config, running_floor=running)
    audio = torch.cat([voices(seconds), voices(seconds, 5)])
    whole = torch.stack(ears.encode(audio))
    assert torch.equal(whole[1], ears.encode(audio[1:])[0])
    for size in (400, 1280, 12_800, 51_200, 200_000):
        with ears.streaming(2) as stream:
            assert isinstance(stream, TokenizerStream)
            parts = run(stream, audio.split(size, dim=1))
            assert torch.equal(torch.cat(parts, dim=1), whole)
            if running and seconds > 2 and size < 2_000:
                assert isinstance(stream, WhisperVQStream) and sum(part.shape[1] for part in parts[:-1]) > 0


def test_blocks_joined_are_the_whole(ears) -> None:
    """The floor apart, hearing block by block changes nothing: attention sees no later block."""
    from emova.speech.tokenizer.whisper_vq.encoder import EncoderPast

    audio = voices(2.5)
    with torch.inference_mode():
        features, frames = ears.features(audio, torch.tensor([audio.shape[1]]))
        whole = ears.encoder(features, frames)
        past, parts, size = EncoderPast(), [], 2 * ears.config.encoder.block
        for start in range(0, features.shape[2], size):
            inside = min(size, int(frames) - start)
            parts.append(ears.encoder.step(features[..., start : start + size], past, inside))
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 1e-4


@pytest.mark.parametrize("chunks", [[], [12, 15, 20]])
def test_spoken_bit_by_bit_it_says_the_same(voice, chunks) -> None:
    voice.config = voice.flow.config = replace(voice.config, chunks=chunks, steps=2)
    generator = torch.Generator().manual_seed(1)
    units, style = torch.randint(0, 64, (2, 55), generator=generator), torch.randn(2, 24, generator=generator)
    whole = voice.decode(units, style)
    assert whole.shape == (2, 256 * int(55 / 12.5 * 22_050 / 256))
    for size in (1, 9, 55):
        parts = run(voice.streaming(style), units.split(size, dim=1))
        joined = torch.cat(parts, dim=1)
        assert joined.shape == whole.shape and (joined - whole).abs().max() < 1e-4
        if chunks and size == 9:
            assert sum(part.shape[1] > 0 for part in parts) > 2
    if chunks:
        assert voice.streaming(style).step(units[:, : 1 + voice.lookahead_units]).shape[1] > 0
    assert voice.streaming(style).finish().shape == (2, 0)
    with pytest.raises(InputError, match="another tokenizer"):
        voice.decode(torch.tensor([[64]]), style[:1])


def test_sound_depends_on_no_frame_that_is_further_away(voice) -> None:
    vocoder, mel = voice.vocoder, torch.randn(1, 16, 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        still = torch.zeros(1, 9, 100 * 256)
        source, _ = vocoder.source(vocoder.pitch(mel), torch.zeros(1, dtype=torch.float64), torch.zeros(1, 9), still)
        whole = vocoder(mel, source)
        start, end = (50 - REACH) * 256, (50 + REACH) * 256
        later = vocoder(mel[..., 50 - REACH :], source[:, start:])[:, REACH * 256 :]
        sooner = vocoder(mel[..., : 50 + REACH], source[:, :end])[:, : 50 * 256]
    assert (later - whole[:, 50 * 256 :]).abs().max() < 1e-6 and (sooner - whole[:, : 50 * 256]).abs().max() < 1e-6


# --- import, export, import -------------------------------------------------------------------------------------------
def test_there_and_back_gives_the_same_bits(folder, release, tmp_path) -> None:
    exported = tmp_path / "exported"
    assert main(["export", "glm-4-voice", "--model", str(folder), "--out", str(exported), "--quiet"]) == 0
    theirs = load_file(release / "tokenizer" / "model.safetensors")
    ours = load_file(exported / "tokenizer" / "model.safetensors")
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    assert set(theirs) - set(ours) == {"ema_count", "ema_weight", "embed_positions2.weight"}
    bring(exported, tmp_path / "again")
    for part in ("speech_tokenizer", "speech_detokenizer"):
        assert (folder / part / "model.safetensors").read_bytes() == (
            tmp_path / "again" / part / "model.safetensors"
        ).read_bytes()
        assert (folder / part / "config.json").read_text() == (tmp_path / "again" / part / "config.json").read_text()


def test_a_whole_whisper_with_the_codebook_inside_is_the_same(folder, release, tmp_path) -> None:
    theirs = load_file(release / "tokenizer" / "model.safetensors")
    whole = {f"model.encoder.{name}": tensor for name, tensor in theirs.items()}
    whole |= {
        "model.encoder.layers.2.fc1.weight": torch.ones(2),
        "model.encoder.layer_norm.weight": torch.ones(48),
        "model.decoder.layers.0.fc1.weight": torch.ones(2),
        "proj_out.weight": torch.ones(2),
    }
    other = tmp_path / "release"
    (other / "tokenizer").mkdir(parents=True)
    (other / "decoder").symlink_to(release / "decoder")
    save_file(whole, other / "tokenizer" / "model.safetensors")
    (other / "tokenizer" / "config.json").write_text(json.dumps(SAID))
    bring(other, tmp_path / "out", "--ears-block", "1", "--voice-block", "12")
    files = [each / "speech_tokenizer" / "model.safetensors" for each in (folder, tmp_path / "out")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert WhisperVQTokenizer.from_pretrained(tmp_path / "out" / "speech_tokenizer").config.running_floor
    said = FlowHiFTDetokenizer.from_pretrained(tmp_path / "out" / "speech_detokenizer").config
    assert said.chunks == [12, 24, 48, 72, 96]


def test_the_card_tells_the_licences(folder) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "GLM-4-Voice Model License" in card and "running means of the codebook" in card


def test_the_commands_use_it(folder, tmp_path, capsys) -> None:
    from tests.streaming.test_protocol import EXAMPLES

    out = tmp_path / "said.wav"
    line = ["resynthesize", str(EXAMPLES / "question.wav"), "--model", str(folder), "--out", str(out), "--json"]
    assert main(line) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["units"]) == 17 and told["sample_rate"] == 22_050
    assert load_voice(folder).styles.default.key in told["style"]


# --- bad input --------------------------------------------------------------------------------------------------------
def test_yaml_that_names_classes_is_data(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(YAML + "evil: !!python/object/apply:os.system ['touch executed']\n")
    content = read_yaml(path)
    assert section(section(content, "flow"), "encoder") == {"block_size": 4, "size": "<width>"}
    assert content["evil"] == ["touch executed"] and not (tmp_path / "executed").exists()
    for text in ("[1, 2", "- a", "a: &x [*x]", "!x " * 20_000):
        path.write_text(text)
        try:
            assert isinstance(read_yaml(path), dict)
        except InputError as error:
            assert "damaged" in str(error)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pooling_type": "max"}, "pooling_type is max"),
        ({"encoder_causal_convolution": None}, "encoder_causal_convolution is None"),
        ({"quantize_position": 16}, "pooling_position and quantize_position differ"),
        ({"d_model": "wide"}, "does not give d_model"),
        ({"d_model": 64}, "has shape"),
        ({"quantize_position": 1, "pooling_position": 1}, None),
        ({"quantize_position": 3, "pooling_position": 3}, "lacks tensor layers.2"),
    ],
)
def test_another_tokenizer_is_refused_by_what_differs(release, tmp_path, capsys, change, told) -> None:
    other = tmp_path / "release"
    (other / "tokenizer").mkdir(parents=True)
    (other / "decoder").symlink_to(release / "decoder")
    (other / "tokenizer" / "model.safetensors").symlink_to(release / "tokenizer" / "model.safetensors")
    (other / "tokenizer" / "config.json").write_text(json.dumps({**SAID, **change}))
    bring(other, tmp_path / "out", code=2 if told else 0)
    if told:
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert told in line and not (tmp_path / "out").exists()


def test_a_decoder_that_is_missing_or_another(release, tmp_path, capsys) -> None:
    def told(decoder) -> str:
        line = ["import", "glm-4-voice", str(release / "tokenizer"), "--out", str(tmp_path / "out"), "--quiet"]
        assert main([*line, *(["--decoder", str(decoder)] if decoder else [])]) == 2
        assert not (tmp_path / "out").exists()
        (text,) = capsys.readouterr().err.strip().splitlines()
        return text

    assert "--decoder" in told(None)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no weights there" in told(empty)
    flow = fill_all(keys()["golden_flow"])
    torch.save(flow | {"decoder.estimator.extra": torch.ones(1)}, empty / "flow.pt")
    (empty / "hift.pt").symlink_to(release / "decoder" / "hift.pt")
    (empty / "config.yaml").symlink_to(release / "decoder" / "config.yaml")
    assert "tensor decoder.estimator.extra is none" in told(empty)
    torch.save({name: tensor for name, tensor in flow.items() if name != "encoder_proj.bias"}, empty / "flow.pt")
    assert "lacks tensor encoder_proj.bias" in told(empty)
    torch.save({"flow": flow}, empty / "flow.pt")
    assert "no table of tensors" in told(empty)
