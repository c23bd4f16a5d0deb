"""One protocol for everything that works on a part of its input at a time, and its law: streamed equals offline.

A stream takes chunks of any size (also none) and gives what is certain by now; ``finish`` gives the rest. The streams
of the speech tokenizer and of the voice are such streams by themselves; the reply parser and the language model get
theirs here.

Shape letters: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from emova.reply.parser import PieceReader, ReplyEvent

if TYPE_CHECKING:
    from emova.engine.engine import Engine
    from emova.reply.grammar import TokenTable

Chunk = TypeVar("Chunk", contravariant=True)
Result = TypeVar("Result", covariant=True)


@runtime_checkable
class Stream(Protocol[Chunk, Result]):
    """State of one input that is still coming in. Its law: however it is cut, the joined results are the same."""

    def step(self, chunk: Chunk, /) -> Result:
        """Take the next chunk; give what no later chunk can change."""
        ...

    def finish(self) -> Result:
        """The input has ended: what was held back. No step may follow."""
        ...


def run(stream: Stream[Any, Any], chunks: Iterable[Any]) -> list[Any]:
    """All results of a stream, the last one included."""
    return [*(stream.step(chunk) for chunk in chunks), stream.finish()]


class EventStream:
    """A reply's token ids to its events.

    Args:
        table: what the ids stand for.
        parser: a reply format's fresh parser.
    """

    def __init__(self, table: TokenTable, parser: Any) -> None:
        self._reader = PieceReader(table)
        self._parser = parser

    def step(self, tokens: Sequence[int], /) -> list[ReplyEvent]:
        """The events that ``tokens`` complete."""
        return [event for token in tokens for piece in self._reader.read(token) for event in self._parser.feed(piece)]

    def finish(self) -> list[ReplyEvent]:
        """The end, if the end of turn did not tell it."""
        return self._parser.finish()


class ScoreStream:
    """Token ids to the scores of what follows each of them, from a cache: ``[T, V]`` for ``T`` new ids."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cache = engine.new_cache()

    @torch.inference_mode()
    def step(self, tokens: Sequence[int], /) -> Tensor:
        """``[T, V]`` scores (float32) after each of ``tokens``."""
        llama = self._engine.llama
        if not tokens:
            return torch.zeros(0, llama.token_count)
        hidden_TD = llama.forward([(self._cache, llama.embed(tokens))], every=True)
        return llama.scores(hidden_TD)

    def finish(self) -> Tensor:
        """Nothing is held back."""
        return torch.zeros(0, self._engine.llama.token_count)
