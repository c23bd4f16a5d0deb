"""A reply's tokens as they are written, as events."""

from __future__ import annotations

from collections.abc import Sequence

from emova.core.streams import Stream
from emova.reply.format import Parser
from emova.reply.grammar import TokenTable
from emova.reply.parser import PieceReader, ReplyEvent


class EventStream(Stream[Sequence[int], list[ReplyEvent]]):
    """A reply's token ids to its events.

    Args:
        table: what the ids stand for.
        parser: a reply format's fresh parser.
    """

    def __init__(self, table: TokenTable, parser: Parser) -> None:
        self._reader = PieceReader(table)
        self._parser = parser

    def step(self, tokens: Sequence[int], /) -> list[ReplyEvent]:
        """The events that ``tokens`` complete."""
        return [event for token in tokens for piece in self._reader.read(token) for event in self._parser.feed(piece)]

    def finish(self) -> list[ReplyEvent]:
        """The end, if the end of turn did not bring it."""
        return self._parser.finish()
