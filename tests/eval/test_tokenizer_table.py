"""``emova eval tokenizer``: the figures of units whose leaks, phones and delays are known by construction."""

from __future__ import annotations

import io
import json
import math
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from emova.checkpoint.registry import TOKENIZERS, register
from emova.cli.main import main
from emova.core.errors import InputError
from emova.speech.tokenizer.base import TokenizerModule
from emova.speech.tokenizer.kmeans import KMeansConfig, KMeansTokenizer
from emova_eval.tokenizer import measures
from emova_eval.tokenizer.program import evaluate, run, table
from emova_eval.tokenizer.utterances import Utterance, fixtures, shards

SENTENCES, VOICES, EMOTIONS = 6, ("a", "b", "c"), ("calm", "glad")


@dataclass(frozen=True)
class ToneConfig:
    kind: str = "tone_of_test"
    what: str = "words"


class ToneTokenizer(TokenizerModule[ToneConfig]):
    """Speech here is a tone a unit: the octave is the voice's, the step within it is what is said."""

    config_class = ToneConfig
    unit_samples = 640
    codebook_size = 64

    def __init__(self, config: ToneConfig) -> None:
        super().__init__(config)
        self.encoder = nn.Identity()

    def indices(self, samples_BT: Tensor, units_B: Tensor) -> Tensor:
        frames_BUT = samples_BT.unflatten(1, (-1, 640))
        bins_BU = torch.fft.rfft(frames_BUT).abs()[..., 1:200].argmax(-1) + 1
        self.encoder(bins_BU.float()[..., None].expand(-1, -1, 3) + torch.arange(3))
        said_BU, voice_BU = (bins_BU - 10) % 20, (bins_BU - 10) // 20
        return said_BU if self.config.what == "words" else said_BU + 20 * voice_BU.clamp(0, 2)

    def phones(self, units: list[Tensor]) -> list[list[str]]:
        return [[NAMES[int(unit) % 20] for unit in row] for row in units]


NAMES = [f"zh:a{1 + step % 5}" if step % 2 else "bdfhjklmnpstvwzðŋɡɹʃ"[step] for step in range(20)]


def spoken(sentence: int, voice: str, emotion: str) -> tuple[np.ndarray, list[int]]:
    said = np.random.default_rng(sentence).integers(0, 20, 30).tolist()
    loud = 0.1 if emotion == "calm" else 0.4
    time = np.arange(640) / 16000
    tones = [np.sin(2 * np.pi * 25 * (10 + step + 20 * VOICES.index(voice)) * time) for step in said]
    return (loud * np.concatenate(tones)).astype(np.float32), said


def utterances() -> list[Utterance]:
    made = []
    for sentence in range(SENTENCES):
        for voice in VOICES:
            for emotion in EMOTIONS:
                samples, said = spoken(sentence, voice, emotion)
                phones = tuple(NAMES[step] for step in said)
                times = tuple((phone, 0.04 * at, 0.04 * (at + 1)) for at, phone in enumerate(phones))
                made.append(Utterance(samples, "zh", str(sentence), phones, times, voice, "", emotion))
    return made


@pytest.fixture
def tones(tmp_path: Path) -> dict[str, str]:
    """Folders of two tokenizers: one whose units are what is said, one whose units tell the voice too."""
    if "tone_of_test" not in TOKENIZERS.kinds():
        register("speech_tokenizer", "tone_of_test")(ToneTokenizer)
    for what in ("words", "both"):
        ToneTokenizer(ToneConfig(what=what)).save_pretrained(tmp_path / what)
    return {what: str(tmp_path / what) for what in ("words", "both")}


def test_units_of_the_words_alone_leak_nothing_and_do_not_change(tones: dict[str, str]) -> None:
    found = evaluate(tones["words"], utterances(), lambda line: None)
    figures = found.figures
    assert found.kind == "tone_of_test" and figures["unit_rate"] == 25 and figures["bitrate"] == 150
    assert figures["phone_error/zh"] == figures["tone_error/zh"] == figures["lookup_error"] == 0
    assert figures["leak/voice"] <= figures["chance/voice"] + 1 and figures["leak/emotion"] <= 51
    assert figures["change/voice"] == figures["change/emotion"] == 0 and figures["change/sentence"] > 50
    assert figures["used"] == pytest.approx(100 * 20 / 64) and 0 < figures["rtf"] < 5
    assert found.methods["raw log-mel"]["leak/voice"] > 90 and found.methods["raw log-mel"]["leak/emotion"] > 90


def test_units_that_tell_the_voice_are_found_out(tones: dict[str, str]) -> None:
    found = evaluate(tones["both"], utterances(), lambda line: None)
    assert found.figures["leak/voice"] > 90 and found.figures["change/voice"] > 90
    assert found.figures["change/emotion"] == 0 and found.figures["lookup_error"] == 0
    (clusters,) = [figures for name, figures in found.methods.items() if name.startswith("k-means")]
    assert clusters["leak/voice"] > 90  # the same encoder without its quantiser
    assert "leak/gender" not in found.figures  # nothing is known of it


def test_a_pitch_that_never_changes_is_no_figure() -> None:
    time = np.arange(16_000) / 16_000
    buzz = np.asarray(sum(np.sin(2 * np.pi * 200 * k * time) / k for k in range(1, 8)) * 0.1, np.float32)
    same = [Utterance(buzz, "en", str(number % 4)) for number in range(12)]
    assert "leak/pitch" not in measures.leaks(same, None, [np.arange(4)] * 12, 4)


def test_what_the_decoder_reads_wrongly_is_counted_tones_apart(tones: dict[str, str]) -> None:
    right = utterances()[:4]
    changed = []
    for each in right:
        phones = tuple(phone[:-1] + "3" if phone.startswith("zh:") else phone for phone in each.phones)
        changed.append(Utterance(each.samples, "zh", each.sentence, phones))
    tokenizer = ToneTokenizer(ToneConfig())
    heard = measures.Heard(tokenizer, changed)
    figures = measures.phone_errors(tokenizer, heard, changed)
    assert figures["phone_error/zh"] == 0 and figures["tone_error/zh"] > 20
    unknown = [Utterance(each.samples, "zh", each.sentence) for each in right]
    assert measures.phone_errors(tokenizer, heard, unknown) == {}
    assert math.isnan(measures.lookup_error(heard, unknown, 25.0))


def test_look_ahead_is_what_a_stream_waits() -> None:
    config = KMeansConfig(clusters=4)
    model = KMeansTokenizer(config)
    median, longest = measures.look_ahead(model, np.zeros(16000, np.float32))
    half_window = 1000 * config.mel.n_fft / 2 / 16000
    assert median <= longest <= half_window + measures.STEP_MS  # the window behind the unit, and the step of 20 ms
    whole, last = measures.look_ahead(ToneTokenizer(ToneConfig()), np.zeros(16000, np.float32))
    assert last == pytest.approx(960) and whole == pytest.approx(480)  # it waits for the end of the recording


def test_shared_use_is_of_both_languages() -> None:
    heard = measures.Heard.__new__(measures.Heard)
    heard.units = [np.array([0, 1, 2]), np.array([2, 3])]
    each = [Utterance(np.zeros(640, np.float32), language, "") for language in ("en", "zh")]
    assert measures.use_by_language(heard, each) == {"used/en": 75.0, "used/zh": 50.0, "used/shared": 25.0}


def write_shard(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for number, each in enumerate(utterances()[:12]):
            flac = io.BytesIO()
            soundfile.write(flac, each.samples, 16000, format="FLAC")
            facts = {"text": each.sentence, "phones": each.phones, "voice": each.voice, "emotion": each.emotion,
                     "alignment": each.alignment}  # fmt: skip
            members = [("flac", flac.getvalue()), ("json", json.dumps(facts).encode())]
            for kind, data in members if number != 3 else members[:1]:
                member = tarfile.TarInfo(f"{number:03d}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_the_command_prints_one_table_for_any_kind(tones: dict[str, str], tmp_path: Path, capsys) -> None:
    write_shard(tmp_path / "s-000000.tar")
    (tmp_path / "out").mkdir()
    code = main(["eval", "tokenizer", tones["words"], tones["both"], "--data", str(tmp_path / "s-*.tar"), "--out",
                 str(tmp_path / "out")])  # fmt: skip
    said = capsys.readouterr().out
    assert code == 0 and "left out 1: no recording with its facts" in said
    assert said.count("tone_of_test") == 2 and "k-means" in said and "raw log-mel" in said
    rows = json.loads((tmp_path / "out" / "tokenizers.json").read_text())
    assert [row["tokenizer"] for row in rows] == list(tones.values())
    assert (tmp_path / "out" / "tokenizers.md").read_text() in said


def test_wrong_names_are_refused_and_unknown_figures_are_dashes(tones: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such shards"):
        shards([str(tmp_path / "none-*.tar")])
    with pytest.raises(InputError, match="named twice"):
        run([tones["words"]] * 2, [], 0, "")
    with pytest.raises(InputError):
        run([str(tmp_path / "nowhere")], [], 2, "")
    silent = [Utterance(each.samples, "en", each.sentence) for each in utterances()[:6]]
    text = table([evaluate(tones["words"], silent, lambda line: None)])
    assert "| – |" in text and "nan" not in text


def test_fixtures_have_both_languages_and_the_labels_that_probes_need() -> None:
    found = fixtures().utterances
    assert {each.language for each in found} == {"en", "zh"}
    assert all(each.phones for each in found if each.language == "zh")
    probed = [each for each in found if each.emotion]
    assert len({each.voice for each in probed}) == 4 and len({each.emotion for each in probed}) == 4
