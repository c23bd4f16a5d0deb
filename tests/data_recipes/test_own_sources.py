"""Folders of one's own: every layout becomes shards with phones, damage is counted, bad input is one clear line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from emova.cli.main import main
from emova.core.errors import InputError
from emova.speech.tokenizer.phones import DEFAULT_PHONES
from emova_data.mandarin.g2p import phones as mandarin
from emova_data.records.records import BadRecord
from emova_data.records.shard_writer import read_set
from emova_data.sources.converters import CONVERTERS, FORMATS
from emova_data.sources.own import of_folder, read_yaml
from emova_data.sources.phonemes import phonemizer, sounds

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sources"
RATE = 24000


def sound(path: Path, rate: int = RATE, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(int(rate * seconds)) * 0.05), rate)
    return path


def ljspeech(root: Path) -> None:
    for name in "ab":
        sound(root / "wavs" / f"{name}.wav")
    (root / "metadata.csv").write_text('a|Dr. "X" said|Doctor X said\nb|A cat.\nc|Not there.|Not there.\nd\n')


def kaldi(root: Path) -> None:
    sound(root / "wav" / "r.wav", seconds=2.0)
    (root / "wav.scp").write_text("r wav/r.wav\ns sox x.wav -t wav - |\n")
    (root / "text").write_text("u1 a cat\nu2 a dog\nu3 a cow\nu4 a hen\n")
    (root / "segments").write_text("u1 r 0.0 0.5\nu2 r 0.5 1.5\nu4 s 0 1\n")
    (root / "utt2spk").write_text("u1 anna\nu2 bert\n")
    (root / "spk2gender").write_text("anna f\nbert m\n")


def plain(root: Path) -> None:
    for name, said in (("a/1", "A cat."), ("a/2", "A dog."), ("b/3", "")):
        sound(root / f"{name}.wav").with_suffix(".txt").write_text(said)
    sound(root / "b" / "4.flac")
    (sound(root / "b" / "5.wav").with_suffix(".txt")).write_bytes("Käse".encode("latin-1"))


LAYOUTS: dict[str, tuple[Any, list[str], list[str]]] = {
    "ljspeech": (ljspeech, ["Doctor X said", "A cat."], ["a missing file", "a line without a transcript"]),
    "kaldi": (kaldi, ["a cat", "a dog"], ["a segment that is not in its list", "a command in place of a file"]),
    "plain": (plain, ["A cat.", "A dog."], ["no transcript", "no transcript", "a transcript that is not UTF-8"]),
}


@pytest.mark.parametrize(
    ("converter", "name"),
    [("speech", "metadata.csv"), ("speech", "1-2.trans.txt"), ("speech", "wav.scp"), ("speech", "text"),
     ("librispeech", "SPEAKERS.TXT"), ("aishell", "aishell_transcript_v0.8.txt")],
)  # fmt: skip
def test_a_list_that_is_not_utf_8_is_named(tmp_path: Path, converter: str, name: str) -> None:
    kaldi(tmp_path) if name in ("wav.scp", "text") else sound(tmp_path / "1-2-3.flac")
    if name == "SPEAKERS.TXT":
        (tmp_path / "1-2.trans.txt").write_text("1-2-3 A CAT\n")
    (tmp_path / name).write_bytes("u1 x\nKäse|Käse\n".encode("latin-1"))
    with pytest.raises(InputError, match=f"{name}: byte 6 is not UTF-8; save the file as UTF-8"):
        list({**CONVERTERS, **FORMATS}[converter](tmp_path, {"g2p": "en"}))


def test_phones_are_asked_for_where_there_are_transcripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound(tmp_path / "talk" / "a.wav")
    (tmp_path / "asked.jsonl").write_text('{"messages": []}')
    for kind, place in (("recordings", tmp_path / "talk"), ("messages", tmp_path)):
        out = tmp_path / "sets" / kind
        code = main(["data", "convert", str(place), "--format", kind, "--g2p", "en", "--out", str(out)])
        assert code == 2 and "gets no phones" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_seen_and_read(tmp_path: Path, name: str) -> None:
    make, texts, reasons = LAYOUTS[name]
    make(tmp_path)
    records, left_out = [], []
    for draft in FORMATS["speech"](tmp_path, {"g2p": "en", "sample_rate": 0}):
        try:
            records.append(draft.build())
        except BadRecord as error:
            left_out.append(str(error))
    assert [record.extra["text"] for record in records] == texts and left_out == reasons
    assert all(record.extra["phones"] and record.extra["sample_rate"] == RATE for record in records)
    assert not any(record.notes for record in records)
    if name == "kaldi":
        assert [(each.extra["voice"], each.extra["gender"], each.extra["seconds"]) for each in records] == [
            ("anna", "female", 0.5), ("bert", "male", 1.0),
        ]  # fmt: skip


@pytest.mark.parametrize(("name", "layout"), [("librispeech", "librispeech"), ("libritts", "libritts")])
def test_public_layouts_are_seen_in_a_folder_too(tmp_path: Path, capsys, name: str, layout: str) -> None:
    out = ["--root", str(tmp_path), "--max-skip-rate", "1"]
    assert main(["data", "convert", str(FIXTURES / name), "--format", "speech", "--name", "mine", *out]) == 0
    samples = list(read_set(tmp_path / "sets" / "mine"))
    assert len(samples) == 1 and samples[0]["phones"]
    said = capsys.readouterr().out
    assert ("upsampled" in said) == (name == "librispeech")  # 16 kHz are too few for a voice


def test_what_a_user_should_know_is_counted_over_all_runs(tmp_path: Path, capsys) -> None:
    for number in range(4):
        sound(tmp_path / "mine" / f"{number}.wav", rate=8000).with_suffix(".txt").write_text("A cat.")
    command = ["data", "convert", str(tmp_path / "mine"), "--format", "speech", "--root", str(tmp_path)]
    assert main(command) == 0 == main(command)
    assert capsys.readouterr().out.count("4 of them: recorded at 8000 Hz: upsampled for the speech tokenizer") == 2
    assert json.loads((tmp_path / "sets" / "mine" / "progress.json").read_text())["notes"]


def test_recordings_alone_are_cut_where_it_is_quiet(tmp_path: Path) -> None:
    loud, quiet = 0.2 * np.sin(np.arange(int(1.9 * RATE)) * 0.05), np.zeros(RATE // 5)
    soundfile.write(tmp_path / "long.wav", np.concatenate([loud, quiet, loud, quiet, loud]), RATE)
    sound(tmp_path / "short.wav", seconds=0.1)
    pieces, left_out = [], []
    for draft in FORMATS["recordings"](tmp_path, {"max_seconds": 3.0, "sample_rate": 0}):
        try:
            pieces.append(draft.build())
        except BadRecord as error:
            left_out.append(str(error))
    seconds: list[Any] = [piece.extra["seconds"] for piece in pieces]
    assert sum(seconds) == pytest.approx(6.1, abs=0.01) and len(pieces) == 3 and left_out == ["too short or too long"]
    assert 1.9 <= seconds[0] <= 2.1 and pieces[0].messages[0]["role"] == "document"


def test_phones_of_each_language() -> None:
    assert mandarin("你好，吃资绿圆六贵论") == [
        "zh:n", "zh:i2", "zh:h", "zh:ao3", "zh:ch", "zh:iii1", "zh:z", "zh:ii1", "zh:l", "zh:v4", "zh:van2", "zh:l",
        "zh:iu4", "zh:g", "zh:ui4", "zh:l", "zh:un4",
    ]  # fmt: skip
    english = phonemizer("auto", "en")
    assert english is not None and not DEFAULT_PHONES.ids(english("The quick brown fox.")).unknown
    assert not DEFAULT_PHONES.ids(mandarin("床前明月光，疑是地上霜。举头望明月，低头思故乡。儿子翁")).unknown
    assert sounds("ˈɡuːtən tʰaːk") == ["ɡ", "u", "t", "ə", "n", "tʰ", "a", "k"]
    assert phonemizer("none", "en") is None
    for wrong in ("klingon", "espeak:", "espeak:zz9"):
        with pytest.raises(InputError, match="--g2p"):
            phonemizer(wrong, "en")


def test_other_languages_are_read_by_espeak(tmp_path: Path) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed")
    german = phonemizer("auto", "de")
    assert german is not None and len(german("Guten Tag")) >= 6


def refused(capsys, *arguments: str) -> str:
    assert main(["data", "convert", *arguments]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("emova: ")]
    return line


def test_bad_input_is_one_line(tmp_path: Path, capsys) -> None:
    root = ["--root", str(tmp_path / "data")]
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    assert "no such folder" in refused(capsys, str(tmp_path / "no"), "--format", "llava", *root)
    for kind in FORMATS:
        assert "the folder is empty" in refused(capsys, str(tmp_path / "empty"), "--format", kind, *root)
    assert "no recordings in it" in refused(capsys, str(tmp_path / "text"), "--format", "speech", *root)
    assert "no recordings in it" in refused(capsys, str(tmp_path / "text"), "--format", "recordings", *root)
    assert "no file" in refused(capsys, str(tmp_path / "text"), "--format", "messages", *root)
    assert "say what the folder holds" in refused(capsys, str(tmp_path / "text"), *root)
    (tmp_path / "text" / "rows.jsonl").write_text('{"question": "a"}\n{"nothing": 1}\n')
    assert "no conversation" in refused(capsys, str(tmp_path / "text"), "--format", "llava", *root)
    assert "no messages" in refused(capsys, str(tmp_path / "text"), "--format", "messages", "--name", "m", *root)
    (tmp_path / "text" / "rows.jsonl").unlink()
    (tmp_path / "text" / "rows.json").write_text('{"a": 1}')
    assert "a JSON array" in refused(capsys, str(tmp_path / "text"), "--format", "llava", "--name", "j", *root)
    assert not list((tmp_path / "data").rglob("*.tar"))
    assert "--set x: give KEY=VALUE" in refused(
        capsys, str(tmp_path / "text"), "--format", "llava", "--set", "x", *root
    )


def test_a_source_of_ones_own_stands_in_a_yaml_anywhere(tmp_path: Path, capsys) -> None:
    path = tmp_path / "here" / "mine.yaml"
    path.parent.mkdir()
    path.write_text(
        f"name: mine\nfolder: {FIXTURES / 'llava'}\nconverter: llava\noptions: {{files: chat.json, images: images}}\n"
    )
    out = ["--root", str(tmp_path / "data"), "--max-skip-rate", "1"]
    assert main(["data", "convert", str(path), *out]) == 0
    assert len(list(read_set(tmp_path / "data" / "sets" / "mine"))) == 2
    assert main(["data", "stats", "mine", "--root", str(tmp_path / "data")]) == 0
    assert "records   2" in capsys.readouterr().out
    for content, words in {
        "name: mine\nconverter: lava\n": "converter 'lava' is unknown",
        "name: mine\nconvertor: llava\n": "key 'convertor' is unknown",
        "converter: llava\n": "a mapping with a name",
        "name: mine\nconverter: llava\n": "says no folder",
        "name: mine\nconverter: llava\nfolder: nowhere\n": "no such folder",
        "name: [": "not YAML",
        "- {name: a, converter: llava}\n- {name: b, converter: llava}\n": "has several sources (a, b)",
        "name: mine\nconverter: llava\nstages: [2]\n": "stages map a stage",
    }.items():
        path.write_text(content)
        assert words in refused(capsys, str(path), *out), content
    assert read_yaml(FIXTURES.parents[2] / "data_recipes/emova_data/sources/stage1.yaml").source.name == "lcs-558k"
    assert of_folder(FIXTURES / "llava", "llava").source.name == "llava"


def test_samples_become_questions(tmp_path: Path, capsys) -> None:
    root = ["--root", str(tmp_path)]
    plain(tmp_path / "mine")
    assert main(["data", "convert", str(tmp_path / "mine"), "--format", "speech", "--max-skip-rate", "1", *root]) == 0
    assert main(["data", "questions", "mine", "--out", str(tmp_path / "asked"), *root]) == 0
    from emova_eval.suite.datasets import read_own

    found = read_own(tmp_path / "asked")
    assert [(each.answers, each.metric) for each in found] == [(("A cat.",), "wer"), (("A dog.",), "wer")]
    assert all(Path(each.audio).is_file() for each in found)
