"""What a decoding backend is handed and gives: prompts, contexts, and the protocol that all backends keep.

Shape letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from emova.decoding.ctc import CtcFrames
    from emova.decoding.sampling import Sampling
    from emova.reply.grammar import Grammar
    from emova.vision.slicing import Grid


@dataclass(frozen=True)
class Prompt:
    """What the model is fed before it writes: ids, and the tiles of the pictures among them."""

    ids: tuple[int, ...]
    pixel_values: Tensor | None = None
    image_grids: tuple[Grid, ...] = ()

    def __add__(self, other: Prompt) -> Prompt:
        tiles = [each.pixel_values for each in (self, other) if each.pixel_values is not None]
        pixel_values = torch.cat(tiles) if len(tiles) > 1 else tiles[0] if tiles else None
        return Prompt(self.ids + other.ids, pixel_values, self.image_grids + other.image_grids)


class Cache(Protocol):
    """Keys and values of one sequence."""

    def crop(self, change: int, /) -> None:
        """Forget the last ``-change`` positions."""
        ...


CacheT = TypeVar("CacheT", bound=Cache)
Mark = tuple[int, tuple[int, ...]]
"""A point of a context to go back to: how many positions were read, and what waited then."""


@dataclass
class Context(Generic[CacheT]):
    """What the model has read so far, ``length`` positions; ``waiting`` was written but not yet fed.

    Attributes:
        cache: keys and values of the positions that were read; each backend has its own kind.
        ctc: what CTC reads at the last stretch of speech units; None where the model was not trained to.
    """

    cache: CacheT
    length: int = 0
    waiting: list[int] = field(default_factory=list)
    ctc: CtcFrames | None = None

    def mark(self) -> Mark:
        """A point to go back to."""
        return self.length, tuple(self.waiting)

    def rewind(self, mark: Mark) -> None:
        """Forget everything since ``mark``."""
        length, waiting = mark
        if length < self.length:
            self.cache.crop(length - self.length)
            if self.ctc is not None:
                self.ctc.rewind(length)
        self.length, self.waiting = length, list(waiting)


@runtime_checkable
class DecodingBackend(Protocol[CacheT]):
    """Feeds a model and lets it write under a grammar. All backends write the same tokens, but for rounding."""

    max_length: int
    """Positions of a context."""

    def new_context(self) -> Context[CacheT]:
        """An empty context."""
        ...

    def feed(self, context: Context[CacheT], prompt: Prompt) -> Tensor:
        """Read ``prompt`` after what waits; the scores ``[V]`` (float32) of the next token."""
        ...

    def read(self, context: Context[CacheT], prompt: Prompt) -> None:
        """Read ``prompt`` after what waits, without a look at what may follow."""
        ...

    def write(
        self, context: Context[CacheT], prompt: Prompt, grammar: Grammar, sampling: Sampling
    ) -> Iterator[list[int]]:
        """Let the model write one reply after ``prompt``; yields tokens as they are certain, forced ones in one go.

        The last tokens that the grammar forces stay in ``context.waiting``: the next prompt feeds them.

        Raises:
            InputError: the scores are not numbers (damaged weights), or the context is full.
        """
        ...
