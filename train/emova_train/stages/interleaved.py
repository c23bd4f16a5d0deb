"""Training samples for streaming thoughts: the reply's tokens, what each teaches, and the two sub-tasks.

GLM-4-Voice (§4.2.2) finds that text is learnt sooner than speech, and so shows every sample as two: one with a loss on
the text alone, one with a loss on the speech alone, each with epochs of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from emova.core.errors import InputError
from emova.reply.grammar import TokenTable
from emova.reply.interleaved import Ratio, StreamingThoughts
from emova.reply.json import SpokenReply
from emova_train.data.packing import ANSWER, FRAME, NOTHING, STYLE, UNITS

Subtask = Literal["text", "speech"]


@dataclass(frozen=True)
class ThoughtsConfig:
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
            raise InputError("thoughts: text_share and speech_share are shares; give two from 0 whose sum is at most 1")

    def subtask(self, rng: np.random.Generator) -> Subtask | None:
        """What one sample teaches; None is both."""
        drawn = rng.random()
        if drawn < self.text_share:
            return "text"
        return "speech" if drawn < self.text_share + self.speech_share else None


def thought_kinds(reply_format: StreamingThoughts, reply: SpokenReply, table: TokenTable) -> tuple[int, ...]:
    """What each token of ``reply_format.encode(reply, table)`` teaches.

    A mark that ends a stretch is part of what the stretch teaches where the model chooses it, and frame where the
    ratio forces it.
    """
    blocks = list(reply_format.blocks(reply, table))
    length = len(reply_format.encode(reply, table))
    body = sum(len(text) + (0 if run is None else len(run) + 2) for text, run in blocks) + 1
    kinds = [STYLE] * (length - body)
    ratio = reply_format.ratio
    for text, run in blocks:
        kinds += [ANSWER] * len(text)
        if run is not None:
            last = len(text) < ratio.text_tokens
            ended = last or len(run) < ratio.units
            kinds += [ANSWER if last else FRAME, *[UNITS] * len(run), UNITS if ended else FRAME]
    return (*kinds, FRAME if blocks[-1][1] is not None else ANSWER)


def only(subtask: Subtask, kinds: tuple[int, ...]) -> tuple[int, ...]:
    """The kinds of one of the two sub-tasks: "text" learns all but the speech, "speech" learns the speech alone."""
    return tuple(kind if (kind == UNITS) == (subtask == "speech") else NOTHING for kind in kinds)


def thought_message(
    reply_format: StreamingThoughts, reply: SpokenReply, table: TokenTable, subtask: Subtask | None = None
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The assistant's message of trusted tokens, and what each of them (the end of turn included) teaches.

    Args:
        subtask: keep the loss of one sub-task only; both at once if None.
    """
    ids = reply_format.encode(reply, table)[:-1]  # the rendering adds the end of turn
    kinds = thought_kinds(reply_format, reply, table)
    assert len(kinds) == len(ids) + 1
    message = {"role": "assistant", "content": [{"type": "tokens", "ids": ids}]}
    return message, kinds if subtask is None else only(subtask, kinds)
