"""The recipe nano-zh: what is written, who says it, and that tests hold out words and voices."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from emova.cli.main import main
from emova.core.errors import InputError
from emova_data.nano.voices import voices
from emova_data.nano_zh import recipe as recipes
from emova_data.nano_zh import text
from emova_data.nano_zh.recipe import HELD_OUT, Amounts, RecipeZh, make, spoken
from emova_train.data.recipe import read_talk


def test_templates_say_all_their_readings() -> None:
    assert text.expanded("你(好|们好)(|吗)？") == ["你好？", "你好吗？", "你们好？", "你们好吗？"]


def test_sentences_are_different_have_no_figures_and_stay_the_same() -> None:
    rows = text.sentences(120, 20)
    assert rows == text.sentences(120, 20) and len({row["text"] for row in rows}) == 140
    assert sum(row["split"] == "test" for row in rows) == 20
    assert not any(re.search(r"[\d{}()|]", row["text"]) for row in rows)


def test_dialogues_hold_out_their_phrasings() -> None:
    rows = text.talk()
    train, test = ({row["question"] for row in rows if row["split"] == split} for split in ("train", "test"))
    assert len(rows) > 250 and train and len(test) > 20 and not train & test
    assert {row["emotion"] for row in rows} == {"neutral", "happy", "sad", "angry"}
    assert not any(re.search(r"[\d{}()|]", row["question"] + row["answer"]) for row in rows)


def test_held_out_voices_are_heard_in_tests_alone() -> None:
    rows = [{"language": "zh", "split": split, "text": f"第{n}句话"} for split in ("train", "test") for n in range(80)]
    items = [spoken(number, row, "s2u", 0) for number, row in enumerate(rows)]
    heard = {split: {item.voice.split("/")[1] for item in items if item.split == split} for split in ("train", "test")}
    assert not heard["train"] & set(HELD_OUT) and set(HELD_OUT) <= heard["test"] and len(heard["train"]) == 6
    assert {item.emotion for item in items if item.split == "train"} == {"neutral", "happy", "sad", "angry"}
    english = spoken(1, {"language": "en", "split": "test", "text": "Hello."}, "s2u", 0)
    assert english.voice == "piper/joe" and english.emotion == "neutral"


def test_the_folder_has_nanos_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    class Quiet(voices.Voices):
        def speak(self, voice, said, emotion="neutral", pitch="normal", seed=0):
            return voices.Utterance(np.zeros(2400, np.float32) + 0.1, 24000, ["zh:a1"], None)

    monkeypatch.setattr("emova_data.nano.speech.shard_maker.Voices", Quiet)
    amounts = Amounts(sentences=6, test=4, dialogues=2, english_dialogues=1, style_sentences=1, parallel=1)
    made = RecipeZh(tmp_path, amounts=amounts)
    with pytest.raises(InputError, match="run `emova data make nano-zh --only text` first"):
        make(made, ["s2u"])
    monkeypatch.setattr(recipes.english, "build", lambda seed: [
        {"id": f"e{n}", "split": "test" if n % 5 == 0 else "train", "text": f"Sentence {n}."} for n in range(30)
    ])  # fmt: skip
    make(made)
    assert {path.name.rsplit("-", 1)[0] for path in (made.folder / "speech").glob("*.tar")} == {
        "s2u-train", "s2u-test", "parallel-test", "style-train", "question-train", "question-test", "answer-train",
    }  # fmt: skip
    exchanges = read_talk(made.folder, "train")
    assert any("\u4e00" <= each.question[0] <= "\u9fff" for each in exchanges)
    assert any(each.question[0].isascii() for each in exchanges)


def test_the_command_refuses_unknown_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "make", "nano-zh", "--only", "pictures"]) != 0
    assert "choose from text, s2u" in capsys.readouterr().err
