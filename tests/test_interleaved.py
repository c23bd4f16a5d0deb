"""Streaming thoughts: what the formatter writes the grammar allows and the parser reads back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emova.core.streams import run
from emova.reply.format import ReplyConstraints, ReplyLimits
from emova.reply.grammar import TokenTable
from emova.reply.interleaved import InterleavedReply, Ratio
from emova.reply.parser import (
    Marker,
    Piece,
    ReplyDone,
    ReplyParser,
    SpokenReply,
    StyleChosen,
    UnitsDelta,
    collect,
    merge_deltas,
)
from emova.reply.stream import EventStream
from emova_train.data.examples import ANSWER, NOTHING, SKELETON, STYLE, UNITS
from emova_train.data.interleaved import interleaved_message, only
from emova_train.data.replies import reply_kinds
from tests.fixtures_speech import make_tokenizer

RATIO = Ratio(text_tokens=3, units=4)
TEXTS = ("Hi", "A red apple lies on the table, and a very good morning.", "你好，世界。 😀😀 naïve", "a b c")


@pytest.fixture(scope="module")
def table() -> TokenTable:
    return TokenTable.from_tokenizer(make_tokenizer())


def replies(table: TokenTable) -> list[SpokenReply]:
    """All lengths of the voice around the ratio's edges, for several texts."""
    units = tuple(range(32))
    return [
        SpokenReply("", text, "happy", "low", units[:count]) for text in TEXTS for count in (1, 3, 4, 5, 8, 11, 12, 32)
    ]


def test_written_allowed_and_read_back(table) -> None:
    thoughts = InterleavedReply(RATIO)
    for reply in replies(table):
        ids = thoughts.encode(reply, table)
        grammar = thoughts.grammar(table, ReplyConstraints(limits=ReplyLimits(max_text_tokens=200, max_units=200)))
        taken = grammar.take_forced()
        while not grammar.done:
            token = ids[len(taken)]
            assert token in grammar.allowed()
            grammar.advance(token)
            taken += [token, *grammar.take_forced()]
        assert taken == ids and grammar.done
        stream = EventStream(table, thoughts.parser("male"))
        events = [event for part in run(stream, [[token] for token in ids]) for event in part]
        assert collect(events) == reply
        kinds = [type(event) for event in events]
        assert kinds.index(StyleChosen) < kinds.index(UnitsDelta)
        whole = [event for part in run(EventStream(table, thoughts.parser("male")), [ids]) for event in part]
        assert merge_deltas(whole) == merge_deltas(events)


def test_any_choice_is_a_valid_reply_within_its_limits(table) -> None:
    thoughts, rng = InterleavedReply(RATIO), np.random.default_rng(0)
    limits = ReplyLimits(max_text_tokens=10, max_units=15)
    for round_ in range(60):
        wish = ReplyConstraints(None, "sad" if round_ % 2 else None, "high" if round_ % 3 else None, limits)
        grammar = thoughts.grammar(table, wish)
        ids = grammar.take_forced()
        while not grammar.done:
            allowed = grammar.allowed()
            closing = [token for token in (table.speech_start, table.speech_end, table.end_of_turn) if token in allowed]
            token = int(rng.choice(closing if closing and rng.random() < 0.2 else allowed))
            grammar.advance(token)
            ids += [token, *grammar.take_forced()]
        events = [event for part in run(EventStream(table, thoughts.parser()), [ids]) for event in part]
        reply = collect(events)
        assert reply.text and 1 <= len(reply.units) <= 15
        assert reply.emotion == "sad" or round_ % 2 == 0
        text = sum(table.token_bytes[token] is not None for token in ids)
        # To the end of a character, a text may run three single bytes over its limit.
        assert len(ids) <= thoughts.overhead(table, wish) + 10 + 3 + 15 and text


def test_the_voice_starts_before_the_text_is_over(table) -> None:
    reply = SpokenReply("", TEXTS[1], "neutral", "normal", tuple(range(30)))
    ids = InterleavedReply(RATIO).encode(reply, table)
    events = [event for part in run(EventStream(table, InterleavedReply(RATIO).parser()), [ids]) for event in part]
    names = [type(event).__name__ for event in merge_deltas(events)]
    assert names[:4] == ["StyleChosen", "TextDelta", "UnitsDelta", "TextDelta"]


def test_broken_streams_are_told(table) -> None:
    ids = InterleavedReply(RATIO).encode(SpokenReply("", "Hello you there", "sad", "high", (1, 2, 3, 4, 5)), table)
    start = ids.index(table.speech_start)
    for wrong in (
        ids[:-1],
        ids[:start],
        ids[:start] + ids[start + 1 :],
        ids[start:],
        [*ids[:start], table.end_of_turn],
    ):
        events = [
            event for part in run(EventStream(table, InterleavedReply(RATIO).parser()), [wrong]) for event in part
        ]
        assert isinstance(events[-1], ReplyDone) and not events[-1].complete


def test_what_tokens_teach(table) -> None:
    thoughts = InterleavedReply(RATIO)
    for reply in replies(table):
        ids, kinds = thoughts.encode(reply, table), reply_kinds(thoughts, reply, table)
        assert len(ids) == len(kinds) and set(kinds) <= {STYLE, ANSWER, UNITS, SKELETON}
        units = [kind for token, kind in zip(ids, kinds, strict=True) if table.unit_of[token] >= 0]
        assert units == [UNITS] * len(reply.units)
        text, speech = only("text", kinds), only("speech", kinds)
        for both, one, other in zip(kinds, text, speech, strict=True):
            assert sorted((one, other)) == sorted((NOTHING, both)), "each position is learnt in exactly one sub-task"
        message, own = interleaved_message(thoughts, reply, table, "speech")
        assert message["content"][0]["ids"] == ids[:-1] and own == speech


# --- any split gives the same events ----------------------------------------------------------------------------------
JSON = (
    '{"user question text": "a\\u00e9\\ud83d\\ude00", "assistant response text": "b\\n", '
    '"assistant response emotion": "'
)
WORDS = st.sampled_from(
    ["(", ")", "(happy, low)", "(happy, ", "low)", " " * 64, "x" * 63, '"', "\\", JSON, 'sad"', "é😀"]
)
STREAM = st.lists(st.one_of(WORDS, st.text(max_size=70), st.integers(0, 40), st.sampled_from(Marker)), max_size=12)


def split(pieces: list[Piece], cut: st.DataObject) -> list[Piece]:
    """The same stream, its text cut or joined elsewhere."""
    found: list[Piece] = []
    for piece in pieces:
        if not isinstance(piece, str):
            found.append(piece)
            continue
        places = cut.draw(st.lists(st.integers(0, len(piece)), max_size=4).map(sorted))
        edges = [0, *places, len(piece)]
        found += [piece[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    return found


def events_of(parser, pieces: list[Piece]) -> list:
    events = [event for piece in pieces for event in parser.feed(piece)]
    return merge_deltas([*events, *parser.finish()])


@pytest.mark.parametrize("make", [InterleavedReply().parser, ReplyParser], ids=["interleaved", "json"])
@settings(max_examples=300, deadline=None)
@given(stream=STREAM, cut=st.data())
def test_any_split_gives_the_same_events(make, stream, cut) -> None:
    """However the text is cut into pieces, also one character each, and wherever it breaks the schema."""
    events = events_of(make(), stream)
    assert events_of(make(), split(stream, cut)) == events
    single = [each for piece in stream for each in (piece if isinstance(piece, str) else [piece])]
    assert events_of(make(), single) == events


@settings(max_examples=200, deadline=None)
@given(length=st.integers(60, 80), cut=st.integers(1, 79))
@example(length=65, cut=1)
def test_a_long_style_is_none_however_it_comes(length, cut) -> None:
    text = "(" + "x" * (length - 1) + ")Hi"
    whole = events_of(InterleavedReply().parser(), [text])
    assert events_of(InterleavedReply().parser(), [text[:cut], text[cut:]]) == whole
    assert any(isinstance(event, StyleChosen) for event in whole) == (length <= 64)
