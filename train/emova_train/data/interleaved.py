"""Training samples for streaming thoughts: the reply's tokens, what each teaches, and the two sub-tasks.

GLM-4-Voice (§4.2.2) finds that text is learnt sooner than speech, and so shows every sample as two: one with a loss on
the text alone, one with a loss on the speech alone, each with epochs of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from emova.checkpoint.registry import REPLY_FORMATS, build_reply_format
from emova.core.errors import InputError
from emova.model.processing_emova import Message
from emova.reply.format import ReplyFormat
from emova.reply.glm_voice import KIND as GLM_VOICE
from emova.reply.grammar import TokenTable
from emova.reply.interleaved import InterleavedReply, Ratio
from emova.reply.parser import SpokenReply
from emova.speech.style import StyleSet
from emova_train.data.examples import NOTHING, UNITS
from emova_train.data.replies import reply_message

Subtask = Literal["text", "speech"]
ALTERNATING = ("interleaved", GLM_VOICE)
"""The reply formats whose text and units alternate."""
_ROUNDED = 1e-9


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

    def subtask_of_pass(self, number: int) -> Subtask | None:
        """What a sample teaches in a pass over its set: in any 24 passes in a row exactly 4 the text and 20 the
        speech, with the paper's shares.

        Args:
            number: of the pass, from wherever the sample begins to count.
        """
        if _falls(number, self.text_share):
            return "text"
        others = number - math.floor(number * self.text_share + _ROUNDED)
        left = 1 - self.text_share
        return "speech" if _falls(others, self.speech_share / left if left > _ROUNDED else 0.0) else None

    @property
    def options(self) -> dict[str, object]:
        """Of the reply format, as a model's config keeps them."""
        return {"text_tokens": self.ratio.text_tokens, "units": self.ratio.units}


def _falls(number: int, share: float) -> bool:
    """Whether ``number`` is one of the numbers of which an even row of ``share`` is made."""
    return math.floor((number + 1) * share + _ROUNDED) > math.floor(number * share + _ROUNDED)


def alternating_format(kind: str, config: InterleavedConfig, styles: StyleSet) -> ReplyFormat:
    """The reply format of a kind in ``ALTERNATING``, with the ratio of ``config``. Raises: InputError: another kind."""
    if REPLY_FORMATS.name(kind) not in ALTERNATING:
        raise InputError(f"records.replies={kind[:40]}: give {', '.join(ALTERNATING)}, or nothing for the model's own")
    return build_reply_format(kind, config.options, styles)


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
