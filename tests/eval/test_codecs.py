"""``emova eval codecs``: tiny pairs of every part side by side, kept when finished, measured anew when they change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from emova.cli.main import main
from emova.core.errors import InputError
from emova.speech.style import DEFAULT_STYLES, StylePrototypes
from emova.speech.tokenizer.units import name_units
from emova_eval.codecs import rows as measuring
from emova_eval.codecs.pairs import DEFAULTS, FSQ, VQ, Codec, Pair, find_folders, parse_pair, parse_pairs
from emova_eval.codecs.program import CodecsConfig, run, table
from emova_eval.codecs.rows import PARTS, Judges, Sizes, digest_of
from emova_eval.judges.voices import VoiceJudges
from emova_eval.metrics.acoustics import shipped_judge
from emova_eval.tokenizer.utterances import Utterance
from tests.fixtures_codecs import EARS, VOICES

SIZES = Sizes(words=2, styles=1, seconds=1.5, repeats=1)


class Recogniser:
    """Hears what is loud as a word: the round trip needs something that hears, and no weights."""

    name = "counts loud thirds"

    def transcribe(self, samples: np.ndarray) -> str:
        return " ".join("word" for third in np.array_split(samples, 3) if np.abs(third).max(initial=0.0) > 1e-3)


JUDGES = Judges(Recogniser(), VoiceJudges(), shipped_judge())


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports of random weights: FSQ at 25 Hz with a VITS, VQ at 12.5 Hz with a flow decoder, k-means without one."""
    root = tmp_path_factory.mktemp("exports")
    torch.manual_seed(0)
    for name, parts in (("fsq", ("s2u", "u2s")), ("vq", ("whisper_vq", "flow_hift bounded"))):
        EARS[parts[0]]().eval().save_pretrained(root / name / "ears")  # type: ignore[operator]
        voice = VOICES[parts[1]]().eval()
        voice.save_pretrained(root / name / "voice")  # type: ignore[operator]
        vectors = {style.key: torch.randn(8) for style in DEFAULT_STYLES}
        StylePrototypes(vectors).save(root / name / "voice")
    EARS["kmeans"]().eval().save_pretrained(root / "kmeans")  # type: ignore[operator]
    return root


def pair(exports: Path, name: str) -> Pair:
    return Pair(name, str(exports / name / "ears"), str(exports / name / "voice"))


def few() -> list[Utterance]:
    """Three sentences in two voices and emotions, voice-like sounds that swell and fall."""
    made = []
    for number in range(12):
        rng = np.random.default_rng(number)
        time, hertz = np.arange(12_000) / 16_000, 120 + 15 * (number % 5)
        buzz = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 8))
        samples = ((0.02 * rng.standard_normal(12_000) + 0.1 * buzz) * np.sin(time * 18)).astype(np.float32)
        voice, emotion = "ab"[number % 2], ("happy", "sad")[number // 2 % 2]
        made.append(Utterance(samples, "en", f"word word {number // 4}", ("h", "ə"), (), voice, "", emotion))
    return made


@pytest.fixture
def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Utterance]:
    from emova_eval.codecs import program
    from emova_eval.tokenizer.utterances import Chosen

    found = few()
    monkeypatch.setattr(program, "chosen_of", lambda data, limit: Chosen(found))
    return found


def config(exports: Path, output: Path, *names: str) -> CodecsConfig:
    pairs = [pair(exports, name) for name in names or ("fsq", "vq")]
    return CodecsConfig(pairs, sizes=SIZES, output=str(output))


def test_two_pairs_and_ears_alone_side_by_side(exports: Path, recordings: list[Utterance], tmp_path: Path) -> None:
    wanted = config(exports, tmp_path)
    rows = run(
        CodecsConfig([*wanted.pairs, Pair("ears alone", str(exports / "kmeans"))], sizes=SIZES, output=str(tmp_path)),
        JUDGES, lambda line: None,
    )  # fmt: skip
    fsq, vq, alone = (row.figures for row in rows)
    assert [row.kind for row in rows] == ["s2u", "whisper_vq", "kmeans"]
    assert (fsq["unit_rate"], vq["unit_rate"]) == (25, 12.5) and (fsq["bitrate"], vq["bitrate"]) == (300, 75)
    for figures in (fsq, vq):
        assert figures["wer"] >= 0 and 0 <= figures["emotion_right"] <= 100 and 0 <= figures["recordings"] <= 1
        assert figures["first_ms"] > 0 and figures["voice_core"] > 0 and figures["ears_core"] > 0
        assert {"leak/voice", "leak/emotion", "phone_error/en", "look_ahead", "pitch_order"} <= figures.keys()
    assert vq["needs_units"] == 4  # the decoder's first chunk
    assert "wer" not in alone and "voice_core" not in alone and alone["ears_core"] > 0
    text = (tmp_path / "table.md").read_text()
    assert text == table(rows, JUDGES) and "nan" not in text and "counts loud thirds" in text
    assert "- ears alone, words: no decoder for these units." in text
    assert [row["name"] for row in json.loads((tmp_path / "rows.json").read_text())] == ["fsq", "vq", "ears alone"]


def test_what_was_interrupted_goes_on_and_what_is_finished_is_read(
    exports: Path, recordings: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = config(exports, tmp_path, "vq")
    whole = measuring.StylesTask.ask
    asked: list[object] = []

    def killed(task: object, model: object, example: object) -> object:
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append(example)
        return whole(task, model, example)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring.StylesTask, "ask", killed)
    with pytest.raises(KeyboardInterrupt):
        run(wanted, JUDGES, lambda line: None)
    (folder,) = (tmp_path / "rows").iterdir()
    assert {path.stem for path in folder.glob("*.json")} == {"units", "speed", "words", "run"}
    kept = (folder / "words.json").read_text()

    def counted(task: object, model: object, example: object) -> object:
        asked.append(example)
        return whole(task, model, example)  # type: ignore[arg-type]

    monkeypatch.setattr(measuring.StylesTask, "ask", counted)
    said: list[str] = []
    first = run(wanted, JUDGES, said.append)
    assert len(asked) == 24, "every style is asked once, those before the kill too"
    assert [line for line in said if line.startswith("vq: ")] == ["vq: units read", "vq: speed read", "vq: words read",
                                                                  "vq: styles"]  # fmt: skip
    assert (folder / "words.json").read_text() == kept

    # Under another name, which is not what was measured, all of it is read.
    for name in ("evaluate", "speed", "run_task"):
        monkeypatch.setattr(measuring, name, None)
    renamed = CodecsConfig([Pair("other", *_places(wanted.pairs[0]))], sizes=SIZES, output=str(tmp_path))
    (again,) = run(renamed, JUDGES, said.append)
    assert again.figures == first[0].figures and len(asked) == 24


def _places(each: Pair) -> tuple[str, str]:
    return each.tokenizer, each.detokenizer


def test_a_changed_export_other_recordings_and_another_judge_are_measured_anew(exports: Path, tmp_path: Path) -> None:
    recordings = few()
    torch.manual_seed(1)
    folder = tmp_path / "fsq"
    EARS["s2u"]().eval().save_pretrained(folder / "ears")  # type: ignore[operator]
    VOICES["u2s"]().eval().save_pretrained(folder / "voice")  # type: ignore[operator]
    StylePrototypes({style.key: torch.ones(8) for style in DEFAULT_STYLES}).save(folder / "voice")
    changed = Pair("fsq", str(folder / "ears"), str(folder / "voice"))
    known = digest_of(changed, recordings, SIZES, JUDGES)
    assert known == digest_of(Pair("renamed", *_places(changed)), recordings, SIZES, JUDGES)
    others = {known, digest_of(changed, recordings[:-1], SIZES, JUDGES)}
    others.add(digest_of(changed, recordings, Sizes(words=3, styles=1, seconds=1.5, repeats=1), JUDGES))
    others.add(digest_of(changed, recordings, SIZES, Judges(None, VoiceJudges(), JUDGES.emotion, "not here")))
    StylePrototypes({style.key: torch.zeros(8) for style in DEFAULT_STYLES}).save(folder / "voice")
    others.add(digest_of(changed, recordings, SIZES, JUDGES))
    voice = VOICES["u2s"]()
    with torch.no_grad():
        next(voice.parameters()).add_(0.5)
    voice.eval().save_pretrained(folder / "voice")  # type: ignore[operator]
    others.add(digest_of(changed, recordings, SIZES, JUDGES))
    assert len(others) == 6


def test_without_a_recogniser_the_words_are_missing_and_measured_when_there_is_one(
    exports: Path, recordings: list[Utterance], tmp_path: Path
) -> None:
    deaf = Judges(None, VoiceJudges(), JUDGES.emotion, "no Whisper model here")
    wanted = config(exports, tmp_path, "vq")
    (row,) = run(wanted, deaf, lambda line: None)
    assert row.missing == {"words": "no Whisper model here"} and "wer" not in row.figures
    assert "- vq, words: no Whisper model here." in (tmp_path / "table.md").read_text()
    (row,) = run(wanted, JUDGES, lambda line: None)
    assert not row.missing and "wer" in row.figures


def test_pairs_that_do_not_fit_are_one_line(exports: Path, tmp_path: Path) -> None:
    ears, voice = str(exports / "fsq/ears"), str(exports / "vq/voice")
    for wrong, words in (
        (Pair("x", ears, voice), "^x: the tokenizer makes 25 units a second, the decoder says 12.5; give the decoder"),
        (Pair("x", str(tmp_path / "none")), "^x: .*none.* no such checkpoint"),
        (Pair("x", str(tmp_path)), "^x: .* has no config.json; give the export of a training"),
        (Pair("x", ears, str(exports / "kmeans")), "^x: .*style_prototypes.safetensors is missing; `emova train proto"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            Codec(wrong)
        assert "\n" not in str(caught.value)
    # As many units that stand for other sounds: the decoder names the tokenizer that it has learnt.
    learnt = tmp_path / "voice"
    VOICES["u2s"]().eval().save_pretrained(learnt)  # type: ignore[operator]
    StylePrototypes({style.key: torch.ones(8) for style in DEFAULT_STYLES}).save(learnt)
    Codec(Pair("x", ears, str(learnt)))
    name_units(learnt, "another-tokenizer")
    with pytest.raises(InputError, match="^x: has learnt the units another-tokenizer, the speech tokenizer makes"):
        Codec(Pair("x", ears, str(learnt)))
    # As many a second of another codebook.
    with pytest.raises(InputError, match="^x: the speech tokenizer hears units of another set"):
        Codec(Pair("x", str(exports / "kmeans"), str(exports / "fsq/voice")))
    StylePrototypes({style.key: torch.ones(4) for style in DEFAULT_STYLES}).save(learnt)
    with pytest.raises(InputError, match="^x: the styles have 4 channels, the decoder takes 8"):
        Codec(Pair("x", ears, str(learnt)))


def test_pairs_are_named_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert parse_pair("a b=one,two") == Pair("a b", "one", "two") and parse_pair("a=one").detokenizer == ""
    assert parse_pairs([]) == DEFAULTS and {each.name for each in DEFAULTS} >= {FSQ, VQ}
    for wrong in ("a", "=one", "a=", "a=1,2,3,4"):
        with pytest.raises(InputError, match="no pair; give NAME=TOKENIZER"):
            parse_pair(wrong)
    with pytest.raises(InputError, match="a: named twice"):
        parse_pairs(["a=x", "a=y"])
    assert find_folders(DEFAULTS[0]).prototypes is not None  # the shipped voice's, beside its folder
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "codecs"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "VQ 12.5 Hz + flow: runs/vq-nano/export is missing; `emova train vq nano`" in said
    assert main(["eval", "codecs", "a=b", "--refresh", "none.md"]) == 2 and "none.md" in capsys.readouterr().err
    with pytest.raises(InputError, match="above 0"):
        Sizes(words=0)
    assert len(PARTS) == 4
