"""The spoken reply as a chain of modality (EMOVA §4.2, Fig. 3): the question, the answer, its style, its units."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from emova.core.errors import InputError
from emova.core.tokens import speech_pieces, speech_text
from emova.reply.calls import encode_calls
from emova.reply.format import UNCONSTRAINED, ReplyConstraints, ReplyFormat, Role
from emova.reply.grammar import Choice, Fixed, Fork, FreeText, Grammar, Segment, TokenTable, Units
from emova.reply.guard import schema_words
from emova.reply.parser import (
    CALLS_KEY,
    KEYS,
    SPEECH_KEY,
    Marker,
    Piece,
    ReplyParser,
    SpokenReply,
    collect,
    merge_deltas,
)
from emova.speech.style import DEFAULT_STYLES, StyleSet

SPOKEN_SYSTEM = "Reply as JSON."

# What each of the four strings says.
_BEFORE_CALLS = f', "{CALLS_KEY}": '
_ROLES: tuple[Role, ...] = ("transcript", "answer", "style", "style")
# A reply up to its speech, as (what stands before a string, the string, its quote) four times, and the rest.
_HEAD = re.compile(
    r'(\{"' + r'": ")((?:[^"\\]|\\.)*)(")(, "'.join(KEYS) + r'": ")',
)


def _inside(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


class JsonReply(ReplyFormat):
    """The chain of modality as JSON, keys in a fixed order (EMOVA Fig. 3).

    A reply that calls tools has ``"assistant tool calls": [...]`` behind the question, and nothing else: what was asked
    is heard before it is decided whom to ask.
    """

    system_prompt = SPOKEN_SYSTEM
    schema = schema_words("json", *KEYS)
    words_end = "style"

    def __init__(self, styles: StyleSet = DEFAULT_STYLES) -> None:
        self.styles = styles

    @classmethod
    def from_options(cls, options: Mapping[str, object], styles: StyleSet) -> JsonReply:
        """It has no options. Raises: InputError: there is one."""
        if options:
            raise InputError(f"the reply format json has no option {str(next(iter(options)))[:40]!r}; remove it")
        return cls(styles)

    def format(self, reply: SpokenReply) -> str:
        """The reply as a string, without the end of turn."""
        speech = speech_text(reply.units)
        strings = [_inside(value) for value in (reply.transcript, reply.text, reply.emotion, reply.pitch)]
        return "".join(self._before(index) + string + '"' for index, string in enumerate([*strings, speech])) + "}"

    def parse(self, text: str) -> SpokenReply:
        """The inverse of ``format``. Raises: InputError: the text breaks the schema."""
        head, mark, tail = text.rpartition(f'"{SPEECH_KEY}": "')
        pieces: list[Piece] = [head + mark]
        pieces += [Marker(value) if what == "token" else value for what, value in speech_pieces(tail)]
        parser = self.parser()
        events = merge_deltas([event for piece in pieces for event in parser.feed(piece)] + parser.finish())
        return collect(events)

    def stretches(self, reply: SpokenReply, table: TokenTable) -> list[tuple[Role, list[int]]]:
        """The token ids of ``reply`` with the end of turn.

        Strings and the text between them are tokenised apart, so a string always ends with the token that is exactly
        a quote: training must use these ids, or the grammar would ask for tokens that the model has not learnt. The
        quote belongs to its string, for where the string ends is the model's choice.
        """
        cut: list[tuple[Role, list[int]]] = []
        if reply.calls:
            cut.append(("skeleton", table.encode(self._before(0))))
            cut.append(("transcript", [*table.encode(_inside(reply.transcript)), table.quote]))
            cut.append(("answer", [*table.encode(_BEFORE_CALLS), *encode_calls(reply.calls, table)]))
            return [*cut, ("skeleton", self._after_calls(table))]
        strings = (reply.transcript, reply.text, reply.emotion, reply.pitch)
        for index, (role, value) in enumerate(zip(_ROLES, strings, strict=True)):
            cut.append(("skeleton", table.encode(self._before(index))))
            cut.append((role, [*table.encode(_inside(value)), table.quote]))
        cut.append(("skeleton", [*table.encode(self._before(4)), table.speech_start]))
        cut.append(("speech", [*table.unit_ids[list(reply.units)].tolist(), table.speech_end]))
        return [*cut, ("skeleton", [*table.encode('"}'), table.end_of_turn])]

    def grammar(self, table: TokenTable, wish: ReplyConstraints = UNCONSTRAINED) -> Grammar:
        """What a reply may look like."""
        return Grammar(self._segments(table, wish))

    def overhead(self, table: TokenTable, wish: ReplyConstraints) -> int:
        """How many tokens a reply has at most beside the free text and the units."""
        segments = [*self._question(table, wish), *self._answer(table, wish)]
        lengths = [len(segment) for segment in segments if isinstance(segment, Fixed | Choice)]
        # Each free text may go on to the end of a character (3 bytes) and ends with a quote; the units have an end.
        answer = sum(lengths) + 2 * 4 + 1
        if (tools := wish.callable) is None:
            return answer
        after, question = self._after_calls(table), self._question(table, wish)
        asked = sum(len(segment) for segment in question if isinstance(segment, Fixed)) + 4
        return max(answer, asked + len(table.encode(_BEFORE_CALLS)) + tools.overhead(table, after))

    def parser(self, voice: str | None = None) -> ReplyParser:
        """A fresh parser for the pieces of one reply."""
        return ReplyParser(voice, self.styles)

    def split(self, text: str) -> list[str]:
        """A reply's text up to its speech, cut where ``encode`` tokenises apart; any other text stays whole."""
        match = _HEAD.fullmatch(text)
        return [part for part in match.groups() if part] if match else [text]

    @staticmethod
    def _before(index: int) -> str:
        """What stands before the value ``index``, from the last quote on."""
        return ('{"' if index == 0 else ', "') + KEYS[index] + '": "'

    @staticmethod
    def _after_calls(table: TokenTable) -> list[int]:
        return [*table.encode("}"), table.end_of_turn]

    def _segments(self, table: TokenTable, wish: ReplyConstraints) -> list[Segment]:
        question, limits = self._question(table, wish), wish.limits
        if (tools := wish.callable) is None:
            return [*question, *self._answer(table, wish)]
        after = self._after_calls(table)
        calling = [*table.encode(_BEFORE_CALLS), *tools.opening(table)]
        calls = lambda: tools.calls(table, limits.max_call_tokens, after)  # noqa: E731
        if tools.must_call:
            return [*question, Fork([(calling, calls)])]
        skeleton, *answer = self._answer(table, wish)
        assert isinstance(skeleton, Fixed)
        return [*question, Fork([(skeleton.ids, lambda: answer), (calling, calls)])]

    def _question(self, table: TokenTable, wish: ReplyConstraints) -> list[Segment]:
        """What was asked."""
        transcript: Segment
        if wish.transcript is None:
            most = wish.limits.max_transcript_tokens
            transcript = FreeText(table, table.quote, json_string=True, max_tokens=most, transcribes=True)
        else:
            transcript = Fixed([*table.encode(_inside(wish.transcript)), table.quote])
        return [Fixed(table.encode(self._before(0))), transcript]

    def _answer(self, table: TokenTable, wish: ReplyConstraints) -> list[Segment]:
        """The answer, its style, its units; what comes first is skeleton."""
        skeleton = [table.encode(self._before(index)) for index in range(len(KEYS))]
        text: Fixed | FreeText
        if wish.text is None:
            text = FreeText(table, table.quote, json_string=True, max_tokens=wish.limits.max_text_tokens, min_tokens=1)
            spoken: FreeText | int = text
        else:
            text = Fixed([*table.encode(_inside(wish.text)), table.quote])
            spoken = len(wish.text.encode())
        return [
            Fixed(skeleton[1]),
            text,
            Fixed(skeleton[2]),
            Choice([*table.encode(value), table.quote] for value in wish.emotions(self.styles)),
            Fixed(skeleton[3]),
            Choice([*table.encode(value), table.quote] for value in wish.pitches(self.styles)),
            Fixed([*skeleton[4], table.speech_start]),
            Units(table, wish.limits.max_units, spoken, unit_rate=wish.unit_rate),
            Fixed([*table.encode('"}'), table.end_of_turn]),
        ]
