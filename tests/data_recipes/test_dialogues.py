"""Dialogues fit to be spoken: every one is counted, what stays is speakable, long answers are shortened if asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from emova.core.errors import InputError
from emova_data.records.documents import places_of
from emova_data.records.records import plain_text
from emova_data.records.shard_writer import read_set
from emova_data.synthesis import dialogues
from emova_data.synthesis.dialogues import CUT, SHORTENED, DialogueConfig, Parts, ShorteningConfig
from emova_data.synthesis.endpoint import Endpoint
from emova_data.synthesis.style_labels import RuleLabeller

LONG = (
    "A day by the sea begins early, with gulls and a cold wind. Fishers mend their nets, children dig in the sand, and "
    "an old man sells bread from his cart. Towards evening the boats come home, lamps are lit, and somebody sings."
)
ROWS: list[list[str]] = [
    ["How are **you**?", "I am fine, thanks.", "What is a fox?", "A fox is a small wild animal."],
    ["Tell me about the sea.", LONG],
    ["Write a function in Python, please.", "Here it is."],
    ["What is one thing?", "$$x^2 = 4$$"],
    ["How are you today?", "I am well.", "And solve for x, please.", "It is two."],
    ["Say it again.", "Round and round it goes, " * 9],
    ["Hello there."],
    ["How are **you**?", "I am fine, thanks.", "What is a fox?", "A fox is a small wild animal."],
    ["今天天气怎么样？", "今天天气很好，适合出门。"],
]


def write(folder: Path) -> str:
    roles = ("human", "gpt")
    rows = [
        {"conversations": [{"from": roles[at % 2], "value": value} for at, value in enumerate(row)]} for row in ROWS
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "in.jsonl")


@pytest.fixture
def server() -> Iterator[tuple[str, list[str], list[str]]]:
    """An endpoint on this machine: its address, what it answers next, and what it was asked."""
    answers: list[str] = []
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][0]["content"])
            content = json.dumps({"choices": [{"message": {"content": answers.pop(0)}}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1", answers, asked
    running.shutdown()
    running.server_close()


def test_every_dialogue_is_kept_or_counted_with_its_reason(tmp_path: Path) -> None:
    config = DialogueConfig(write(tmp_path), str(tmp_path / "out"), max_answer_words=20, per_shard=2)
    result = dialogues.synthesise(config)
    assert result.skipped == {
        "a long answer": 1, "about code or mathematics": 1,
        "an answer with code, formulas, or what is not said in words": 1, "a missing turn": 1,
        "selection: an answer that repeats itself": 1, "a copy of another record": 1,
    }  # fmt: skip
    assert result.tried == len(ROWS) == result.records + sum(result.skipped.values())
    assert result.notes == {CUT: 1}
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert len(lines) == sum(result.skipped.values())
    found = list(read_set(tmp_path / "out"))
    assert [len(each["messages"]) for each in found] == [4, 2, 2]
    assert found[0]["messages"][0]["content"][0]["text"] == "How are you?"
    assert "solve" not in plain_text(found[1]["messages"]) and found[2]["language"] == "zh"


def test_limits_of_turns_hold(tmp_path: Path) -> None:
    config = DialogueConfig(write(tmp_path), str(tmp_path / "out"), min_turns=2, keep_beginning=False)
    result = dialogues.synthesise(config)
    assert result.records == 1 and result.skipped["too few turns"] == 4
    assert result.tried == result.records + sum(result.skipped.values())
    once = dialogues.synthesise(replace(config, output=str(tmp_path / "one"), min_turns=1, max_turns=1))
    assert {len(each["messages"]) for each in read_set(tmp_path / "one")} == {2} and once.records == 4
    with pytest.raises(InputError, match="min_turns"):
        replace(config, max_turns=1)


def test_long_answers_are_shortened_by_an_endpoint(tmp_path: Path, server: tuple[str, list[str], list[str]]) -> None:
    address, answers, asked = server
    config = DialogueConfig(
        write(tmp_path), str(tmp_path / "out"), max_answer_words=20, limit=2,
        shorten=ShorteningConfig(address, "m", "EMOVA_NO_KEY"),
    )  # fmt: skip
    parts = replace(dialogues.load_parts(config), shortener=Endpoint(address, "m", "EMOVA_NO_KEY", wait=0.01))
    answers += [LONG, "It begins *early* and ends late."]  # the first answer is as long as before
    result = dialogues.synthesise(config, parts)
    assert result.records == 2 and result.notes == {SHORTENED: 1}
    assert [each["messages"][1]["content"][0]["text"] for each in read_set(tmp_path / "out")][1] == (
        "It begins early and ends late."
    )
    assert len(asked) == 2 and "at\nmost 20 words" in asked[0] and "Tell me about the sea." in asked[0]
    answers += [LONG] * 3
    result = dialogues.synthesise(replace(config, output=str(tmp_path / "no")), parts)
    assert result.skipped == {"an answer that could not be shortened": 1}
    with pytest.raises(InputError, match=r"shorten\.address"):
        dialogues.load_parts(replace(config, shorten=ShorteningConfig("here")))


def test_spoken_dialogues_are_rendered_as_streaming_thoughts(tmp_path: Path, tiny_processor) -> None:
    from emova.reply.glm_voice import GLMVoiceReply
    from emova.reply.interleaved import Ratio
    from emova.reply.parser import SpokenReply
    from emova_train.data.interleaved import InterleavedConfig
    from emova_train.data.records import RecordConfig, RecordRenderer
    from emova_train.data.shards import Raw

    config = DialogueConfig(write(tmp_path), str(tmp_path / "out"), limit=1)
    parts = Parts(RuleLabeller(), None, lambda texts: [[ord(each) % 4096 for each in said] for said in texts])
    assert dialogues.synthesise(config, parts).records == 1
    [sample] = read_set(tmp_path / "out")
    both = InterleavedConfig(Ratio(3, 5), text_share=0.0, speech_share=0.0)
    render = RecordRenderer(
        tiny_processor, RecordConfig(replies="glm_4_voice", interleaved=both), seed=0, max_tokens=2000
    )
    made = render.render(Raw("a", sample, {}), 0)
    written = GLMVoiceReply(Ratio(3, 5))
    ids = made.ids.tolist()
    for turn in sample["messages"][1::2]:
        [part] = turn["content"]
        assert all(len(places_of(part[name])) <= 60 for name in ("transcript", "text"))
        reply = SpokenReply("", part["text"], part["emotion"], part["pitch"], tuple(part["units"]))
        expected = written.encode(reply, render.table)
        assert any(ids[at : at + len(expected)] == expected for at in range(len(ids)))
