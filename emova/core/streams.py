"""The protocol of everything that works on a part of its input at a time, and its law: streamed equals offline.

A stream takes chunks of any size (also none) and gives what is certain by now; ``finish`` gives the rest. Speech
tokenizers, voices, reply parsers and the language model are such streams; ``tests/streaming/test_protocol.py`` holds
them all to the law.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar, runtime_checkable

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
ChunkTaken = TypeVar("ChunkTaken", contravariant=True)
ResultGiven = TypeVar("ResultGiven", covariant=True)


@runtime_checkable
class Stream(Protocol[ChunkTaken, ResultGiven]):
    """State of one input that is still coming in. Its law: however it is cut, the joined results are the same."""

    def step(self, chunk: ChunkTaken, /) -> ResultGiven:
        """Take the next chunk; give what no later chunk can change."""
        ...

    def finish(self) -> ResultGiven:
        """The input has ended: what was held back. No step may follow."""
        ...


def run(stream: Stream[Chunk, Result], chunks: Iterable[Chunk]) -> list[Result]:
    """All results of a stream, the last one included."""
    return [*(stream.step(chunk) for chunk in chunks), stream.finish()]
