"""Training samples for streaming thoughts: the reply's tokens, what each teaches, and the two sub-tasks.

GLM-4-Voice (§4.2.2) finds that text is learnt sooner than speech, and so shows every sample as two: one with a loss on
the text alone, one with a loss on the speech alone, each with epochs of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from emova.core.errors import InputError
from emova.model.processing_emova import Message
from emova.reply.grammar import TokenTable
from emova.reply.interleaved import InterleavedReply, Ratio
from emova.reply.parser import SpokenReply
from emova_train.data.examples import NOTHING, UNITS
from emova_train.data.replies import reply_message

Subtask = Literal["text", "speech"]


@dataclass(frozen=True)
class InterleavedConfig:
    """How replies are written as streaming thoughts.

    Attributes:
        ratio: of text and units; the model's config remembers it.
        text_share: the share of samples with a loss on the text alone. The paper's is 4 of 24 epochs.
        speech_share: the share with a loss on the speech alone; what is left has both losses.
    """

    ratio: Ratio = field(default_factory=Ratio)
    text_share: float = 4 / 24
    speech_share: float = 20 / 24

    def __post_init__(self) -> None:
        if min(self.text_share, self.speech_share) < 0 or self.text_share + self.speech_share > 1 + 1e-6:
            raise InputError(
                "interleaved: text_share and speech_share are shares; give two from 0 whose sum is at most 1"
            )

    def subtask(self, rng: np.random.Generator) -> Subtask | None:
        """What one sample teaches; None is both."""
        drawn = rng.random()
        if drawn < self.text_share:
            return "text"
        return "speech" if drawn < self.text_share + self.speech_share else None


def only(subtask: Subtask, kinds: tuple[int, ...]) -> tuple[int, ...]:
    """The kinds of one of the two sub-tasks: "text" learns all but the speech, "speech" learns the speech alone."""
    return tuple(kind if (kind == UNITS) == (subtask == "speech") else NOTHING for kind in kinds)


def interleaved_message(
    reply_format: InterleavedReply, reply: SpokenReply, table: TokenTable, subtask: Subtask | None = None
) -> tuple[Message, tuple[int, ...]]:
    """The assistant's message of trusted tokens, and what each of them (the end of turn included) teaches.

    Args:
        subtask: keep the loss of one sub-task only; both at once if None.
    """
    message, kinds = reply_message(reply_format, reply, table)
    return message, kinds if subtask is None else only(subtask, kinds)
