"""The EMOVA release's speech tokenizer: what its authors' code gave comes out, streams keep their law, and the way back
gives the same bits."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from emova.checkpoint.importing import emova_tokenizer, source
from emova.checkpoint.importing.mapping import Report
from emova.checkpoint.importing.source import Tensors
from emova.checkpoint.loading import check_units, load_speech_tokenizer, load_voice
from emova.checkpoint.registry import load_detokenizer, load_tokenizer
from emova.cli.main import main
from emova.core.errors import InputError
from emova.core.streams import run
from emova.speech.audio import load_audio
from emova.speech.detokenizer.base import DetokenizerModule
from emova.speech.detokenizer.emova_u2s.detokenizer import EmovaU2SConfig, EmovaU2SDetokenizer
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.tokenizer.base import TokenizerModule
from emova.speech.tokenizer.emova_s2u.tokenizer import BlockStream, EmovaS2UTokenizer, ReleasedFSQ, join_runs
from emova.speech.tokenizer.protocol import SpeechTokenizer, TokenizerStream
from tests.importing.official import TOKENIZER_CONFIG, InMemory, keys, of, write_release
from tests.importing.official import emova_tokenizer as official


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release") / "tokenizer", official(), TOKENIZER_CONFIG)


@pytest.fixture(scope="module")
def folder(release):
    out = release.parent / "imported"
    assert main(["import", "emova-tokenizer", str(release), "--out", str(out), "--quiet"]) == 0
    return out


def voices(seconds: float, seed: int = 0) -> torch.Tensor:
    """Something with harmonics and pauses, ``[1, T]`` at 16 kHz."""
    rng, times = np.random.default_rng(seed), np.arange(int(16_000 * seconds)) / 16_000
    pitch = 120 + 40 * np.sin(2 * np.pi * 0.7 * times + seed)
    wave = sum(np.sin(2 * np.pi * np.cumsum(pitch) * k / 16_000) / k for k in range(1, 12))
    loud = np.clip(np.sin(2 * np.pi * 1.3 * times), 0, 1)
    return torch.from_numpy((0.1 * wave * loud + 0.002 * rng.normal(size=len(times))).astype(np.float32))[None]


# --- golden -----------------------------------------------------------------------------------------------------------
def test_units_equal_those_of_the_release_at_full_size() -> None:
    """95 million weights by the rule; the ids are equal, the vectors before them within 1e-4."""
    facts = of("s2u")
    ears, _, _ = emova_tokenizer.read(InMemory(official(keys()["golden_s2u"])), TOKENIZER_CONFIG, Report())
    with torch.inference_mode():
        vectors, units = ears(facts["waveform"][None], torch.tensor([len(facts["waveform"])]))
        assert (vectors - facts["pre_quant"]).abs().max() < 1e-4
        assert torch.equal(ears.quantizer(vectors), facts["unit_ids"].long())
        expected = facts["unit_ids"][0, : int(units)].long()
        assert torch.equal(ears.clip(facts["waveform"]), expected)
        assert torch.equal(ears.encode(facts["waveform"][None])[0], join_runs(expected))


def test_the_quantiser_is_the_releases_own() -> None:
    facts = of("s2u_batch")
    assert torch.equal(ReleasedFSQ([8, 8, 8, 8])(facts["fsq.input"]), facts["fsq.ids"].long())


def test_the_voice_equals_that_of_the_release(folder) -> None:
    voice, facts = EmovaU2SDetokenizer.from_pretrained(folder / "speech_detokenizer"), of("u2s")
    style, units = facts["style"][..., 0], facts["units"][None]
    with torch.no_grad():
        hidden, mean, log_spread = voice.prior(units)
        for name, spread in (("zero_noise", 0.0), ("default_noise", 0.8)):
            log_frames = voice.durations(hidden, style, spread * facts["noise_w"])
            assert (log_frames - facts[f"{name}.logw"][0]).abs().max() < 1e-4
            assert torch.equal(log_frames.exp().ceil().long()[0], facts[f"{name}.durations"])
        _, _, frames = voice.frames(units, style, torch.zeros(1, 2, units.shape[1]))
        z = mean.repeat_interleave(frames[0], dim=2)
        assert (z - facts["zero_noise.z_p"]).abs().max() < 1e-4
        waveform = voice.head(voice.flow.inverse(z, style), style)
        assert (waveform - facts["zero_noise.waveform"][0]).abs().max() < 1e-4
        assert (voice.reference.embed(facts["ref.spec"], facts["ref.spec_len"]) - facts["ref.style"]).abs().max() < 1e-4


def test_the_full_size_has_the_releases_shapes() -> None:
    """On the meta device: every tensor of ours is one of the release's, and what is left is named."""
    from emova.checkpoint.importing.mapping import give

    config = EmovaU2SConfig()
    with torch.device("meta"):
        state = EmovaU2SDetokenizer(config).state_dict()
    names = emova_tokenizer.u2s_names(config)
    given = {f"decoder.{name}": list(tensor.shape) for name, tensor in give(names, state).items()}
    released = {name: shape for name, shape in keys()["emova_u2s"].items() if name.startswith("decoder.")}
    assert given.items() <= released.items()
    left = [name.removeprefix("decoder.") for name in released if name not in given]
    assert left and all(names.why_unused(name) for name in left)


# --- styles -----------------------------------------------------------------------------------------------------------
def test_every_style_of_the_table_has_a_name(folder, release) -> None:
    voice = load_voice(folder)
    table = load_file(release / "model.safetensors")["style_embedding.weight"]
    rows = emova_tokenizer.style_rows(None, "")
    assert list(rows) == keys()["labels"] and rows["gender-female_emotion-neutral_speed-normal_pitch-normal"] == 41
    labels = {emova_tokenizer.label(style): voice.prototypes[style] for style in voice.styles}
    assert set(labels) == set(rows)
    assert all(torch.equal(vector, table[rows[label]]) for label, vector in labels.items())
    assert emova_tokenizer.label(voice.styles.default) == "gender-female_emotion-neutral_speed-normal_pitch-normal"


def test_the_files_own_order_of_styles_is_trusted() -> None:
    table, labels = torch.randn(126, 4), keys()["labels"]
    order = {label: row for label, row in zip(labels, np.random.default_rng(0).permutation(126).tolist(), strict=True)}
    made = emova_tokenizer.prototypes(table, emova_tokenizer.style_rows(order, "x"), "x")
    style = made.styles.parse("male fast", "sad", "low")
    assert torch.equal(made[style], table[order["gender-male_emotion-sad_speed-fast_pitch-low"]])


# --- laws of the protocols --------------------------------------------------------------------------------------------
def test_both_are_parts_like_any_other(folder, tmp_path) -> None:
    ears, voice = load_tokenizer(folder / "speech_tokenizer"), load_detokenizer(folder / "speech_detokenizer")
    assert isinstance(ears, SpeechTokenizer) and isinstance(voice, SpeechDetokenizer)
    check_units(ears, load_voice(folder), "it")
    for part, again in ((ears, load_tokenizer), (voice, load_detokenizer)):
        part.save_pretrained(tmp_path / type(part).__name__)
        read = again(tmp_path / type(part).__name__)
        assert isinstance(part, TokenizerModule | DetokenizerModule)
        assert isinstance(read, TokenizerModule | DetokenizerModule)
        assert read.config == part.config
        assert all(
            torch.equal(one, other)
            for one, other in zip(part.state_dict().values(), read.state_dict().values(), strict=True)
        )


def test_a_row_does_not_depend_on_the_others(folder) -> None:
    ears, voice = load_tokenizer(folder / "speech_tokenizer"), load_detokenizer(folder / "speech_detokenizer")
    batch = torch.zeros(2, 24_000)
    batch[0], batch[1, :9_001] = voices(1.5)[0], voices(2.0, 3)[0, :9_001]
    both = ears.encode(batch, torch.tensor([24_000, 9_001]))
    assert torch.equal(both[0], ears.encode(batch[:1])[0]) and torch.equal(both[1], ears.encode(batch[1:, :9_001])[0])
    units, style = torch.randint(0, 4096, (2, 12)), torch.randn(2, 32)
    spoken = voice.decode(units, style)
    alone = voice.decode(units[1:], style[1:])
    assert torch.equal(spoken[1, : alone.shape[1]], alone[0])


@pytest.mark.parametrize("samples", [0, 1, 200, 640, 641, 20_800])
def test_a_unit_for_every_40_ms_begun(folder, samples) -> None:
    ears = EmovaS2UTokenizer.from_pretrained(folder / "speech_tokenizer")
    for block in (0, 7):
        ears.config = replace(ears.config, joined=False, block_units=block)
        assert len(ears.encode(voices(2.0)[:, :samples])[0]) == -(-samples // 640)


@pytest.mark.parametrize("block", [0, 5])
@pytest.mark.parametrize("joined", [True, False])
def test_heard_bit_by_bit_it_hears_the_same(folder, block, joined) -> None:
    ears = EmovaS2UTokenizer.from_pretrained(folder / "speech_tokenizer")
    ears.config = replace(ears.config, block_units=block, left_units=11, right_units=3, joined=joined)
    audio = voices(2.3)[:, :-77]
    whole = ears.encode(audio)[0]
    for size in (111, 640, 7_000, 40_000):
        with ears.streaming() as stream:
            assert isinstance(stream, TokenizerStream)
            parts = run(stream, audio.split(size, dim=1))
            assert torch.equal(torch.cat(parts, dim=1)[0], whole)
            if block and size == 640:
                assert isinstance(stream, BlockStream)
                assert sum(part.shape[1] for part in parts[:-1]) > 0  # not all at the end
                with pytest.raises(InputError, match="ended"):
                    stream.step(audio)
    if joined:
        assert (whole[1:] != whole[:-1]).all()
        with pytest.raises(InputError, match="joined"), ears.streaming(2):
            pass


@pytest.mark.parametrize("block", [0, 4])
def test_spoken_bit_by_bit_it_says_the_same(folder, block) -> None:
    voice = EmovaU2SDetokenizer.from_pretrained(folder / "speech_detokenizer")
    voice.config = replace(voice.config, block_units=block, left_units=9, right_units=3)
    generator = torch.Generator().manual_seed(1)
    units, style = torch.randint(0, 4096, (1, 40), generator=generator), torch.randn(1, 32, generator=generator)
    whole = voice.decode(units, style)
    for size in (1, 4, 13, 40):
        parts = run(voice.streaming(style), units.split(size, dim=1))
        joined = torch.cat(parts, dim=1)
        assert joined.shape == whole.shape and (joined - whole).abs().max() < 1e-4
        if block and size == 4:
            assert sum(part.shape[1] for part in parts[:-2]) > 0
    assert voice.streaming(style).finish().shape == (1, 0)
    with pytest.raises(InputError, match="another tokenizer"):
        voice.decode(torch.tensor([[4096]]), style)
    with pytest.raises(InputError, match="in step"):
        voice.streaming(torch.randn(2, 32))


def test_sound_comes_after_as_many_units_as_it_says(folder) -> None:
    voice = EmovaU2SDetokenizer.from_pretrained(folder / "speech_detokenizer")
    voice.config = replace(voice.config, block_units=4, left_units=9, right_units=3, length_scale=2.0)
    units = torch.randint(0, 4096, (1, 1 + voice.lookahead_units), generator=torch.Generator().manual_seed(1))
    assert voice.streaming(torch.ones(1, 32)).step(units).shape[1] > 0
    voice.config = replace(voice.config, block_units=0)
    assert voice.lookahead_units > 10_000 and voice.streaming(torch.ones(1, 32)).step(units).shape == (1, 0)


def test_a_voice_has_styles_of_recordings(folder) -> None:
    voice = load_detokenizer(folder / "speech_detokenizer")
    shortest = hop_less(voice)
    style = voice.embed_style(voices(1.0))
    assert style.shape == (1, 32) and abs(float(style.norm()) - 1) < 1e-5
    with pytest.raises(InputError, match="too short"):
        voice.embed_style(torch.zeros(1, shortest - 1))


def hop_less(voice) -> int:
    """The reduced reference encoder's windows are shorter than its hop; let it hop by a quarter of one."""
    config = voice.reference.config
    voice.reference.config = replace(config, hop=config.n_fft // 4)
    return config.n_fft


# --- import, export, import -------------------------------------------------------------------------------------------
def states(folder) -> dict[str, bytes]:
    parts = ("speech_tokenizer", "speech_detokenizer")
    files = [folder / "style_prototypes.safetensors", *(folder / part / "model.safetensors" for part in parts)]
    return {
        f"{file.parent.name}/{name}": tensor.numpy().tobytes()
        for file in files
        for name, tensor in load_file(file).items()
    }


def test_there_and_back_gives_the_same_bits(folder, release, tmp_path) -> None:
    exported, again = tmp_path / "exported", tmp_path / "again"
    assert main(["export", "emova-tokenizer", "--model", str(folder), "--out", str(exported), "--quiet"]) == 0
    theirs = load_file(release / "model.safetensors")
    for name, tensor in load_file(exported / "model.safetensors").items():
        assert theirs[name].shape == tensor.shape, name
        if not name.endswith(("weight_g", "weight_v")):
            assert torch.equal(theirs[name], tensor), name
    assert main(["import", "emova-tokenizer", str(exported), "--out", str(again), "--quiet"]) == 0
    assert {key.split("/", 1)[1]: value for key, value in states(folder).items()} == {
        key.split("/", 1)[1]: value for key, value in states(again).items()
    }


def test_other_forms_of_the_same_weights_are_the_same(folder, release, tmp_path) -> None:
    """Shards, a pickle of tensors alone, and weight normalisation by its newer names."""
    state = load_file(release / "model.safetensors")
    newer = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in state.items()
    }
    shards = write_release(tmp_path / "shards", newer, TOKENIZER_CONFIG, shards=3)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    torch.save(state, pickled / "pytorch_model.bin")
    for name in (shards, pickled):
        out = tmp_path / f"{name.name}-imported"
        assert main(["import", "emova-tokenizer", str(name), "--out", str(out), "--quiet"]) == 0
        assert {k.split("/", 1)[1]: v for k, v in states(out).items()} == {
            k.split("/", 1)[1]: v for k, v in states(folder).items()
        }


def test_the_card_tells_the_licence_and_what_was_left_out(folder, release, tmp_path, capsys) -> None:
    assert main(["import", "emova-tokenizer", str(release), "--out", str(tmp_path / "x"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "Apache-2.0" in told["licences"][0]
    assert sum(told["mapped"].values()) + len(told["unused"]) == len(load_file(release / "model.safetensors"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Apache-2.0" in card and "of training alone" in card and str(release.parent) not in card


def test_the_commands_use_it(folder, tmp_path, capsys) -> None:
    from tests.streaming.test_protocol import EXAMPLES

    question = str(EXAMPLES / "question.wav")
    assert main(["tokenize", question, "--model", str(folder), "--json"]) == 0
    units = json.loads(capsys.readouterr().out)["units"]
    assert units and all(one != other for one, other in zip(units, units[1:], strict=False))
    out = tmp_path / "said.wav"
    style = ["--voice", "male slow", "--emotion", "fearful", "--pitch", "low"]
    assert main(["resynthesize", question, "--model", str(folder), "--out", str(out), *style, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["units"] == units and told["sample_rate"] == 22_050 and len(load_audio(out, 22_050))


# --- bad input --------------------------------------------------------------------------------------------------------
def refused(tmp_path, source_path, capsys) -> str:
    before = sorted(tmp_path.rglob("*"))
    assert main(["import", "emova-tokenizer", str(source_path), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def changed(tmp_path, release, change) -> str:
    state = load_file(release / "model.safetensors")
    change(state)
    return str(write_release(tmp_path / "release", state, TOKENIZER_CONFIG))


BROKEN = {
    "lacks tensor decoder.dp.proj.weight": lambda state: state.pop("decoder.dp.proj.weight"),
    "lacks tensor style_embedding.weight": lambda state: state.pop("style_embedding.weight"),
    "lacks tensor encoder.encoder.feature_encoder.block_modules.0.conv.conv.weight": lambda state: [
        state.pop(name) for name in list(state) if name.startswith("encoder.")
    ],
    "tensor encoder.extra.weight is none that": lambda state: state.update({"encoder.extra.weight": torch.ones(2)}),
    "tensor lm_head.weight is none of": lambda state: state.update({"lm_head.weight": torch.ones(2)}),
    "has shape [48], not": lambda state: state.update({"decoder.dp.proj.weight": torch.ones(48)}),
    "holds what is no number": lambda state: state["decoder.dp.proj.weight"].fill_(float("nan")),
    "is [8.0, 8.0, 8.0, 5.0]": lambda state: state.update(
        {"encoder.quantizer._levels_np": torch.tensor([8.0, 8.0, 8.0, 5.0])}
    ),
    "has shape [24, 32]": lambda state: state.update({"style_embedding.weight": torch.ones(24, 32)}),
}


@pytest.mark.parametrize("told", BROKEN)
def test_another_release_is_refused_by_what_differs(release, tmp_path, capsys, told) -> None:
    assert told in refused(tmp_path, changed(tmp_path, release, BROKEN[told]), capsys)


def test_files_that_are_no_release(release, tmp_path, capsys, monkeypatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    assert "no weights there" in refused(tmp_path, empty, capsys)
    (empty / "config.json").write_text('{"model_type": "llama"}')
    assert "holds a llama" in refused(tmp_path, empty, capsys)
    (empty / "config.json").write_text("[" * 5000)
    assert "damaged" in refused(tmp_path, empty, capsys)
    assert "no such folder" in refused(tmp_path, tmp_path / "nowhere", capsys)

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    pickled = tmp_path / "pickled.bin"
    torch.save({"encoder.x": Evil()}, pickled)
    assert "can run code" in refused(tmp_path, pickled, capsys)
    pickled.write_bytes(b"\x80\x02garbage")
    assert "pickled.bin" in refused(tmp_path, pickled, capsys)
    torch.save([1, 2], pickled)
    assert "no table of tensors" in refused(tmp_path, pickled, capsys)

    cut = tmp_path / "cut.safetensors"
    whole = (release / "model.safetensors").read_bytes()
    for end in (0, 5, 100, len(whole) - 1):
        cut.write_bytes(whole[:end])
        assert "damaged or cut short" in refused(tmp_path, cut, capsys)

    monkeypatch.setattr(source, "available_memory", lambda: 1 << 20)
    assert "needs" in refused(tmp_path, release, capsys)


def test_a_missing_shard_is_named(release, tmp_path, capsys) -> None:
    state = load_file(release / "model.safetensors")
    folder = write_release(tmp_path / "release", state, TOKENIZER_CONFIG, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors: missing" in refused(tmp_path, folder, capsys)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    assert "outside of its folder" in refused(tmp_path, folder, capsys)


def test_a_hubs_error_is_one_line(tmp_path, capsys, monkeypatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*arguments, **options):
        raise LocalEntryNotFoundError("https://hub/with/a/token")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    line = refused(tmp_path, "someone/something", capsys)
    assert "cannot be fetched" in line and "token" not in line


def test_nothing_that_is_there_is_overwritten(release, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    assert "is there already" in refused(tmp_path, release, capsys)


def test_units_of_one_set_are_not_said_by_a_voice_of_another(folder) -> None:
    with pytest.raises(InputError, match="another set"):
        check_units(load_speech_tokenizer("emova-nano"), load_voice(folder), "mixed")
    with pytest.raises(InputError, match="another set"):
        check_units(load_speech_tokenizer(folder), load_voice("emova-nano"), "mixed")


def test_tensors_are_only_of_files(tmp_path) -> None:
    text = tmp_path / "weights.txt"
    text.write_text("x")
    with pytest.raises(InputError, match="no file of weights"):
        Tensors([text])


def test_it_makes_the_units_of_the_released_data_and_of_no_other(folder, tmp_path, capsys) -> None:
    """What the registry says of the authors' sets is what an imported tokenizer, and what it tokenises, are called."""
    import pyarrow
    from pyarrow import parquet

    from emova.checkpoint.loading import SHIPPED, check_learnt
    from emova.speech.tokenizer.units import FILE, units_of
    from emova_data.sources.registry import registry
    from emova_train.data.pack_reader import ShardConfig
    from emova_train.data.shards import find_set
    from emova_train.stages.config import InitConfig, StageConfig
    from emova_train.stages.data import DataConfig
    from emova_train.stages.unit_names import unit_name

    own = units_of(folder / "speech_tokenizer")
    released = [entry for name, entry in registry().items() if name.startswith("emova-")]
    assert len(released) == 3 and {entry.units for entry in released} == {own}

    rows = Path(__file__).parents[1] / "fixtures" / "sources" / "emova" / "emova-speech-text-en" / "rows.jsonl"
    good = [json.loads(line) for line in rows.read_text().splitlines()][:2]
    (tmp_path / "source" / "part").mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(good), tmp_path / "source" / "part" / "train-0.parquet")
    for entry in released:
        told = ["--from", str(tmp_path / "source"), "--out", str(tmp_path / "sets" / entry.name)]
        assert main(["data", "convert", entry.name, *told]) == 0
        assert find_set(tmp_path / "sets", entry.name).units == own

    def learns(*names: str, **init: str) -> str:
        shards = ShardConfig(root=str(tmp_path / "sets"))
        data = DataConfig(sets=dict.fromkeys(names, 1.0), shards=shards)
        return unit_name(StageConfig(data=data, init=InitConfig(**init)), "")

    names = [entry.name for entry in released]
    assert learns(*names, speech_tokenizer=str(folder)) == own
    check_learnt(own, folder / "speech_tokenizer", "a model of the release")
    theirs = units_of(SHIPPED / "emova-nano" / "speech_tokenizer")
    with pytest.raises(InputError, match=f"holds units of the tokenizer {own}, .* those of {theirs}"):
        learns(*names, speech_tokenizer="emova-nano")
    with pytest.raises(InputError, match="has learnt the units"):
        check_learnt(own, SHIPPED / "emova-nano" / "speech_tokenizer", "a model of the release")

    # What an earlier version wrote down by another name is the same.
    listed = tmp_path / "sets" / names[0] / "progress.json"
    listed.write_text(json.dumps({**json.loads(listed.read_text()), "units": "emova-release-deduplicated"}))
    assert learns(*names, speech_tokenizer=str(folder)) == own
    check_learnt("emova-release-deduplicated", folder / "speech_tokenizer", "an older model")

    # The same shapes with weights that an import did not name are another tokenizer.
    load_tokenizer(folder / "speech_tokenizer").save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / FILE).exists() and units_of(tmp_path / "copy") != own
