"""What a talk remembers of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emova.decoding.protocol import Prompt

UNITS_PER_BYTE = 1.7
"""Of spoken English, to guess how much of a text was said."""


@dataclass(frozen=True)
class Turn:
    """A question, and the tokens of its answer."""

    question: Prompt
    answer: tuple[int, ...]

    def __len__(self) -> int:
        """Positions in the model's context."""
        return len(self.question.ids) + len(self.answer)


def newest(turns: Sequence[Turn], positions: int) -> list[Turn]:
    """As many of the last turns as fit into so many positions."""
    kept = list(turns)
    while kept and sum(map(len, kept)) > positions:
        kept = kept[1:]
    return kept


def not_read(prompt: Prompt, read: Sequence[int]) -> Prompt:
    """What of ``prompt`` comes after what was read; a picture is read whole, with the first tokens, or not at all."""
    return Prompt(prompt.ids[len(read) :]) if read else prompt


def text_heard(text: str, heard: int, units: int) -> str:
    """The beginning of ``text`` that was spoken with the first ``heard`` of its ``units``, to the end of a word."""
    share = heard / max(units, UNITS_PER_BYTE * len(text.encode()))
    words = text.split(" ")
    return " ".join(words[: max(1, round(share * len(words)))])
