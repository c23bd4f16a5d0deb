"""docs/train-your-own.md is played: from a folder of each kind to a model that answers, by its own commands, with fewer
steps. That takes minutes; the short form, which CI plays, goes from a folder of each kind up to the dry run of its
training."""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

from emova.cli.main import main
from emova_data.records.shard_writer import read_set
from tests.documents import ROOT

PAGE = ROOT / "docs" / "train-your-own.md"
EXAMPLES = ROOT / "emova" / "checkpoints" / "examples"
QUESTION = EXAMPLES.joinpath("question.txt").read_text().strip()
FEW = {
    "stage3": ["run.epochs=0", "run.max_steps=1", "run.global_batch_size=2", "run.batch_size=1", "samples.answers=0"],
    "u2s": ["run.max_steps=1", "run.batch_size=2", "data.processes=1", "data.validation_windows=2", "samples=1"],
    "s2u": ["run.max_steps=1", "run.workers=0", "batch_seconds=4", "ramp=1"],
}
"""What makes a program short."""


def commands(section: str) -> list[list[str]]:
    """The commands of a section of the page, as words."""
    text = PAGE.read_text(encoding="utf-8")
    part = re.split(r"^## ", text, flags=re.M)[1:]
    [body] = [each for each in part if each.startswith(f"{section}. ")]
    lines = [line for block in re.findall(r"```bash\n(.*?)```", body, re.S) for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.strip()]


def write_pictures(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    shutil.copy(EXAMPLES / "photo.png", folder / "images" / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "It is a picture."}]
    rows = [{"id": number, "image": "images/a.png", "conversations": turns} for number in range(4)]
    (folder / "data.json").write_text(json.dumps([*rows, {"id": "x", "image": "none.png", "conversations": turns}]))


def write_messages(folder: Path) -> None:
    folder.mkdir()
    shutil.copy(EXAMPLES / "photo.png", folder / "a.png")
    shutil.copy(EXAMPLES / "question.wav", folder / "q.wav")
    inline = base64.b64encode((EXAMPLES / "photo.png").read_bytes()).decode()
    sound = {"type": "input_audio", "input_audio": {"data": "q.wav", "format": "wav"}}
    pictures = [
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{inline}"}},
    ]
    rows = [
        [{"role": "user", "content": [sound]}, {"role": "assistant", "content": "A thing."}],
        [{"role": "user", "content": [pictures[0], sound]}, {"role": "assistant", "content": "A picture."}],
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [pictures[1], {"type": "text", "text": "What is this?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "A picture."}]},
        ],
        [
            {"role": "user", "content": [{**sound, "transcript": QUESTION}]},
            {"role": "assistant", "emotion": "happy",
             "content": [{"type": "text", "text": "A thing!"}, {"type": "audio", "audio": "q.wav"}]},
        ],
    ]  # fmt: skip
    text = "".join(json.dumps({"messages": row}) + "\n" for row in rows)
    (folder / "chat.jsonl").write_text(text)


def write_speech(folder: Path) -> None:
    folder.mkdir()
    for number in range(3):
        shutil.copy(EXAMPLES / "question.wav", folder / f"{number}.wav")
        (folder / f"{number}.txt").write_text(QUESTION)


def write_voice(folder: Path) -> None:
    folder.mkdir()
    samples, rate = soundfile.read(EXAMPLES / "question.wav")
    for number in range(3):
        soundfile.write(folder / f"{number}.flac", samples, rate)


WRITERS = {"a": write_pictures, "b": write_messages, "c": write_speech, "d": write_voice}
FOLDERS = {"a": "my-pictures", "b": "my-messages", "c": "my-speech", "d": "my-voice"}


def play(section: str, folder: Path, wanted: Callable[[list[str]], list[str] | None], capsys) -> list[str]:
    """Play a section in ``folder``; what the page's chats answered.

    Args:
        wanted: what is played in place of a command; None leaves it out.
    """
    WRITERS[section](folder / FOLDERS[section])
    for name in ("photo.png", "question.wav"):
        shutil.copy(EXAMPLES / name, folder / name)
    answers = []
    for command in commands(section):
        assert command[0] == "emova"
        words = wanted(command[1:])
        if words is None:
            continue
        if words[:2] == ["data", "convert"]:
            words = [*words, "--max-skip-rate", "0.5"]
        capsys.readouterr()
        assert main(words) == 0, (words, capsys.readouterr().err[-2000:])
        if words[0] == "chat":
            answers.append(capsys.readouterr().out.strip())
    return answers


def few_steps(words: list[str]) -> list[str]:
    return [*words, *(FEW.get(words[1], []) if words[0] == "train" and "--dry-run" not in words else [])]


def dry(words: list[str]) -> list[str] | None:
    """A stage's training as a dry run; sets are made, models are not."""
    if words[0] == "data" and words[1] in ("convert", "tokenise"):
        return words
    return [*words, "--dry-run"] if words[:2] == ["train", "stage3"] and "--dry-run" not in words else None


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("section", WRITERS)
def test_the_page_leads_from_a_folder_to_a_model(section: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(play(section, tmp_path, few_steps, capsys))


@pytest.mark.parametrize(
    ("section", "sets"),
    [("a", {"pictures"}), ("b", {"messages", "messages-units"}), ("c", {"speech", "speech-units"}), ("d", {"voice"})],
)
def test_the_page_leads_from_a_folder_to_a_dry_run(
    section: str, sets: set[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    play(section, tmp_path, dry, capsys)
    assert {path.parent.name for path in (tmp_path / "data" / "sets").glob("*/progress.json")} == sets


def test_messages_keep_their_pictures_sound_and_spoken_answers(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_messages(tmp_path / "my-messages")
    assert main(["data", "convert", "my-messages", "--format", "messages"]) == 0
    assert "4 records" in capsys.readouterr().out
    first, second, third, last = read_set(tmp_path / "data" / "sets" / "my-messages")
    assert first["messages"][0]["content"] == [{"type": "audio", "audio": "0.flac"}]
    assert [part["type"] for part in second["messages"][0]["content"]] == ["image", "audio"]
    assert third["media"]["0.png"] == (EXAMPLES / "photo.png").read_bytes()
    reply = last["messages"][1]["content"][0]
    assert reply["type"] == "reply" and reply["transcript"] == QUESTION and reply["emotion"] == "happy"
    assert reply["audio"] in last["media"]
