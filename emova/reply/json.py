"""The spoken reply as a chain of modality (EMOVA §4.2, Fig. 3): the question, the answer, its style, its units."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from emova.core.errors import InputError
from emova.core.tokens import speech_pieces, speech_text
from emova.reply.format import UNCONSTRAINED, ReplyConstraints, ReplyFormat, Role
from emova.reply.grammar import Choice, Fixed, FreeText, Grammar, Segment, TokenTable, Units
from emova.reply.parser import KEYS, SPEECH_KEY, Marker, Piece, ReplyParser, SpokenReply, collect, merge_deltas
from emova.speech.style import DEFAULT_STYLES, StyleSet

SPOKEN_SYSTEM = "Reply as JSON."

# What each of the four strings says.
_ROLES: tuple[Role, ...] = ("transcript", "answer", "style", "style")
# A reply up to its speech, as (what stands before a string, the string, its quote) four times, and the rest.
_HEAD = re.compile(
    r'(\{"' + r'": ")((?:[^"\\]|\\.)*)(")(, "'.join(KEYS) + r'": ")',
)


def _inside(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


class JsonReply(ReplyFormat):
    """The chain of modality as JSON, keys in a fixed order (EMOVA Fig. 3)."""

    system_prompt = SPOKEN_SYSTEM

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
        lengths = [len(segment) for segment in self._segments(table, wish) if isinstance(segment, Fixed | Choice)]
        # Each free text may go on to the end of a character (3 bytes) and ends with a quote; the units have an end.
        return sum(lengths) + 2 * 4 + 1

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

    def _segments(self, table: TokenTable, wish: ReplyConstraints) -> list[Segment]:
        limits = wish.limits
        skeleton = [table.encode(self._before(index)) for index in range(len(KEYS))]
        transcript: Segment
        if wish.transcript is None:
            most = limits.max_transcript_tokens
            transcript = FreeText(table, table.quote, json_string=True, max_tokens=most, transcribes=True)
        else:
            transcript = Fixed([*table.encode(_inside(wish.transcript)), table.quote])
        text = FreeText(table, table.quote, json_string=True, max_tokens=limits.max_text_tokens, min_tokens=1)
        return [
            Fixed(skeleton[0]),
            transcript,
            Fixed(skeleton[1]),
            text,
            Fixed(skeleton[2]),
            Choice([*table.encode(value), table.quote] for value in wish.emotions(self.styles)),
            Fixed(skeleton[3]),
            Choice([*table.encode(value), table.quote] for value in wish.pitches(self.styles)),
            Fixed([*skeleton[4], table.speech_start]),
            Units(table, limits.max_units, text),
            Fixed([*table.encode('"}'), table.end_of_turn]),
        ]
