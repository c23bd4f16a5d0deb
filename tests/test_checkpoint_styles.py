"""The styles are the checkpoint's: a word in its config and a vector in its prototypes are all that a new one needs."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.checkpoint.loading import checkpoint_styles, load_voice
from emova.cli.main import main
from emova.core.errors import InputError
from emova.events import Done
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.parser import SpokenReply, StyleChosen, collect
from emova.reply.stream import EventStream
from emova.session.scheduler import Scheduler
from emova.speech.style import DEFAULT_STYLES, Style, StylePrototypes, StyleSet

SURPRISED = StyleSet(emotions=(*DEFAULT_STYLES.emotions, "surprised"))
LIMITS = ReplyLimits(max_transcript_tokens=8, max_text_tokens=10, max_units=30)


def restyle(folder, styles: dict) -> None:
    """Write ``styles`` into a checkpoint's config."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "styles": styles}))


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory):
    """A checkpoint that can be surprised."""
    folder = tmp_path_factory.mktemp("styles") / "surprised"
    shutil.copytree(tiny_checkpoint, folder)
    restyle(folder, {"emotions": list(SURPRISED.emotions)})
    before = StylePrototypes.load(tiny_checkpoint)
    new = {style.key: torch.randn(8) for style in SURPRISED if style.emotion == "surprised"}
    StylePrototypes({**{style.key: before[style] for style in DEFAULT_STYLES}, **new}, SURPRISED).save(folder)
    return folder


@pytest.fixture(scope="module")
def assistant(folder) -> Assistant:
    return Assistant.from_pretrained(folder, config=AssistantConfig(reply_limits=LIMITS))


def test_it_speaks_chats_and_says_what_it_has(assistant, folder) -> None:
    assert assistant.styles == SURPRISED == checkpoint_styles(folder) and len(assistant.styles) == 30
    style = assistant.styles.parse("male", "Surprised ", "high")
    spoken, plain = assistant.speak("Hello there.", style), assistant.speak("Hello there.", Style("male"))
    assert spoken.style.emotion == "surprised" and spoken.units == plain.units
    assert (spoken.audio != plain.audio).any()
    reply = assistant.chat(text="Hi!", emotion="surprised")
    assert reply.emotion == "surprised" and reply.style_understood
    session = Scheduler(assistant).open()
    assert next(e for e in session.ask("Hi!", emotion="surprised") if isinstance(e, Done)).reply.emotion == "surprised"


@pytest.mark.parametrize("kind", ["json", "interleaved"])
def test_grammar_and_parser_know_the_word(assistant, kind) -> None:
    """The model may choose it, training writes it, and what is written is read back."""
    reply_format, table = assistant.parts.model.config.reply_format(kind), assistant.table
    transcript = "Hi" if kind == "json" else ""
    reply = SpokenReply(transcript, "What a day", "surprised", "high", (1, 2, 3))
    ids = reply_format.encode(reply, table)
    grammar = reply_format.grammar(table, ReplyConstraints(limits=ReplyLimits(40, 40, 40)))
    taken = grammar.take_forced()
    while not grammar.done:
        token = ids[len(taken)]
        assert token in grammar.allowed()
        grammar.advance(token)
        taken += [token, *grammar.take_forced()]
    assert taken == ids
    events = EventStream(table, reply_format.parser("male")).step(ids)
    chosen = next(event for event in events if isinstance(event, StyleChosen))
    assert chosen.understood and chosen.style == Style("male", "surprised", "high") and collect(events) == reply
    content = sum(len(table.encode(words)) for words in (reply.transcript, reply.text)) + len(reply.units)
    assert len(ids) - content <= reply_format.overhead(table, ReplyConstraints(limits=ReplyLimits(40, 40, 40)))


def test_the_command_line_follows_the_checkpoint(folder, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["speak", "Hello.", "--emotion", "surprised", "--model", str(folder), "--quiet"]) == 0
    assert (tmp_path / "speech.wav").is_file() and "surprised" in capsys.readouterr().out
    assert main(["info", "--model", str(folder)]) == 0
    assert "emotions: neutral, happy, sad, angry, surprised" in capsys.readouterr().out


def test_a_checkpoint_without_the_word_refuses_it(tiny_checkpoint, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = "'surprised' is unknown; choose one of neutral, happy, sad, angry"
    for name in (str(tiny_checkpoint), "emova-nano"):
        assert main(["speak", "Hello.", "--emotion", "surprised", "--model", name]) == 2
        assert known in capsys.readouterr().err and not (tmp_path / "speech.wav").exists()
    shipped = Assistant.from_pretrained(tiny_checkpoint)
    with pytest.raises(InputError, match=known):
        shipped.chat(text="Hi!", emotion="surprised")
    with pytest.raises(InputError, match=known):
        shipped.speak("Hi!", Style("female", "surprised"))
    with pytest.raises(InputError, match=known):
        shipped.voice.synthesize([1], Style("female", "surprised"))
    style, understood = shipped.styles.from_model("female", "surprised", "high")
    assert style == Style("female", "neutral", "high") and not understood


def test_a_word_without_a_vector_is_refused(tiny_checkpoint, tmp_path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "half")
    restyle(tmp_path / "half", {"emotions": list(SURPRISED.emotions)})
    with pytest.raises(InputError, match="surprised.* is missing; all 30 styles are needed"):
        load_voice(tmp_path / "half")


@pytest.mark.parametrize(
    "styles",
    [
        {"emotions": []},
        {"emotions": "happy"},
        {"emotions": ["neutral", "neutral"]},
        {"emotions": ["neutral", "a_b"]},
        {"emotions": ["neutral", '", "x": "']},
        {"emotions": ["neutral", "Happy"]},
        {"pitches": ["normal", 3]},
        {"voices": ["x" * 33]},
        {"moods": ["neutral"]},
        ["neutral"],
    ],
)
def test_wrong_styles_are_one_line(styles, tiny_checkpoint, tmp_path) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "wrong")
    restyle(tmp_path / "wrong", styles)
    with pytest.raises(InputError, match="styles") as raised:
        Assistant.from_pretrained(tmp_path / "wrong")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_voices_are_the_checkpoints_too(tiny_checkpoint, tmp_path) -> None:
    """Other voices, and another default: nothing in the package says female."""
    folder = tmp_path / "robots"
    shutil.copytree(tiny_checkpoint, folder)
    robots = StyleSet(("robot", "old man"), ("calm", "excited"), ("flat",))
    restyle(folder, robots.to_dict())
    StylePrototypes({style.key: torch.randn(8) for style in robots}, robots).save(folder)
    assistant = Assistant.from_pretrained(folder, config=AssistantConfig(reply_limits=LIMITS))
    reply = assistant.chat(text="Hi!")
    assert reply.voice == "robot" and reply.emotion in robots.emotions and reply.pitch == "flat"
    assert assistant.chat(text="Hi!", voice="old man").voice == "old man"
    assert assistant.speak("Hello.").style == Style("robot", "calm", "flat")
    assert Scheduler(assistant).open().voice == "robot"
    with pytest.raises(InputError, match="choose one of robot, old man"):
        assistant.conversation("female")
