"""Replies with a head: any split gives the same events, nothing is lost, and heads can be told apart."""

from __future__ import annotations

import random

import pytest

from emova.core.errors import InputError
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.grammar import TokenTable
from emova.reply.headed import NO_HEAD, HeadedReply
from emova.reply.parser import Marker, Piece, ReplyDone, SpokenReply, StyleChosen, TextDelta, collect, merge_deltas
from emova.reply.stream import EventStream
from emova.reply.tools import Toolbox
from emova.speech.style import DEFAULT_STYLES

LIMITS = ReplyLimits(max_text_tokens=20, max_units=30)


class Tagged(HeadedReply):
    system_prompt = "Reply with a tag."

    def head(self, emotion: str, pitch: str) -> str:
        return f"<{emotion}|{pitch}> "


def events_of(text: str, units: tuple[int, ...], rng: random.Random) -> list:
    pieces: list[Piece] = []
    while text:
        step = rng.choice([1, 1, 2, 5, 100])
        pieces.append(text[:step])
        text = text[step:]
    pieces += [Marker.SPEECH_START, *units, Marker.SPEECH_END, Marker.END_OF_TURN]
    parser = Tagged().parser("male")
    return merge_deltas([event for piece in pieces for event in parser.feed(piece)])


@pytest.mark.parametrize("text", ["<sad|low> A <day>.", "<sad|low> ", "<sad|lo", "No tag.", "<", ""])
def test_any_split_gives_the_same_events_and_no_letter_is_lost(text: str) -> None:
    rng = random.Random(0)
    found = [events_of(text, (1, 2), rng) for _ in range(12)]
    assert all(each == found[0] for each in found)
    tagged = text.startswith("<sad|low> ")
    assert "".join(each.text for each in found[0] if isinstance(each, TextDelta)) == text.removeprefix("<sad|low> ")
    assert [each.understood for each in found[0] if isinstance(each, StyleChosen)] == [tagged]
    assert found[0][-1] == ReplyDone(None if tagged else NO_HEAD)


def test_every_style_reads_back(tiny_tokenizer) -> None:
    table = TokenTable.from_tokenizer(tiny_tokenizer)
    for style in DEFAULT_STYLES:
        reply = SpokenReply("", "A day: 你好.", style.emotion, style.pitch, (3, 4095))
        ids = Tagged().encode(reply, table)
        assert collect(EventStream(table, Tagged().parser()).step(ids)) == reply


@pytest.mark.parametrize(
    "wish",
    [ReplyConstraints(limits=LIMITS, text="It is so.", emotion="sad"), ReplyConstraints(limits=LIMITS, pitch="high")],
)
def test_what_is_wished_for_is_written(tiny_tokenizer, wish: ReplyConstraints) -> None:
    table = TokenTable.from_tokenizer(tiny_tokenizer)
    grammar, rng, taken = Tagged().grammar(table, wish), random.Random(1), list[int]()
    while not grammar.done:
        taken += grammar.take_forced()
        if not grammar.done:
            taken.append(rng.choice(grammar.allowed().tolist()))
            grammar.advance(taken[-1])
    reply = collect(EventStream(table, Tagged().parser()).step(taken))
    assert wish.text in (None, reply.text) and wish.emotion in (None, reply.emotion)
    assert wish.pitch in (None, reply.pitch) and reply.units
    assert len(taken) <= LIMITS.max_text_tokens + LIMITS.max_units + Tagged().overhead(table, wish)


def test_what_it_cannot_do_is_one_line(tiny_tokenizer) -> None:
    class Nested(Tagged):
        def head(self, emotion: str, pitch: str) -> str:
            return emotion if pitch == "normal" else f"{emotion} {pitch}"

    class Alike(Tagged):
        def head(self, emotion: str, pitch: str) -> str:
            return f"{emotion}: "

    for kind in (Nested, Alike):
        with pytest.raises(ValueError, match=f"{kind.__name__}: each style needs a head of its own"):
            kind()
    tools = Toolbox.from_openai([{"type": "function", "function": {"name": "clock"}}])
    with pytest.raises(InputError, match="call none"):
        Tagged().grammar(TokenTable.from_tokenizer(tiny_tokenizer), ReplyConstraints(tools=tools))
    with pytest.raises(InputError, match="has no option 'loud'; remove it"):
        Tagged.from_options({"loud": True}, DEFAULT_STYLES)
