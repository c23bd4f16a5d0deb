"""CTC over heard units: what is said is read off where it is heard, beside the transcript that the reply begins with.

A language model that learns to listen from its transcripts alone first learns to write likely sentences, and hears them
late: each has few tokens, and where in the speech a word lies must be found by attention. CTC (Graves et al. 2006) asks
each position of a heard unit for the text so far as well, which needs no alignment and costs one more use of the
vocabulary head; a joint loss of the two is what made attention-based recognition learn from little (Kim et al. 2017,
arXiv 1609.06773). It is taken of a middle layer (Lee and Watanabe 2021, arXiv 2102.03216): the layers after it then
find words where they look. It has no weights of its own, and ``emova.decoding.ctc`` asks it again when a transcript is
written.

Shape letters: N positions of the row, P stretches of heard speech, K their positions, T the longest, C text tokens and
the blank, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from emova.core.errors import InputError
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova_train.data.examples import PROMPT_UNITS, TRANSCRIPT, Example, runs
from emova_train.stages.losses.auxiliary import Ask, AuxiliaryLoss, HiddenStates, check_layer


@dataclass(frozen=True)
class CTCConfig:
    """The loss's weight over that of the replies, 0 for none, and the layers that a unit goes through before it."""

    weight: float = 0.0
    layer: int = 4

    def __post_init__(self) -> None:
        if self.weight < 0 or self.layer < 1:
            raise InputError(f"losses.ctc: weight={self.weight}, layer={self.layer}; give 0 or more, and 1 or more")

    def build(self, model: EmovaForConditionalGeneration, processor: EmovaProcessor) -> CTC:
        """The loss; the model remembers the layer, of which a transcript is read again when it is written."""
        check_layer("losses.ctc.layer", self.layer, model)
        model.config.ctc_layer = self.layer
        return CTC(self)


class CTC(AuxiliaryLoss):
    """Each heard utterance against its transcript; a batch has ``ctc_spans`` [P, 4] of ``heard_spans``."""

    name = "ctc"

    def __init__(self, config: CTCConfig) -> None:
        self.weight = config.weight
        self.layer = config.layer

    def targets(self, examples: Sequence[Example], bounds: np.ndarray) -> dict[str, Tensor]:
        spans = [
            heard_spans(each.kinds == PROMPT_UNITS, each.kinds == TRANSCRIPT) + first
            for each, first in zip(examples, bounds, strict=False)
        ]
        return {"ctc_spans": torch.from_numpy(np.concatenate(spans))}

    def asks(self, batch: Mapping[str, Tensor]) -> list[Ask]:
        return [(self.layer, heard_positions(batch["ctc_spans"]))]

    def __call__(self, states: HiddenStates, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        spans_P4 = batch["ctc_spans"]
        blank = states.model.config.pad_token_id  # text tokens lie below it
        assert blank is not None
        if not len(spans_P4):
            return {}
        return {"ctc": ctc_loss(states.logits[0][:, : blank + 1], batch["input_ids"][0], spans_P4)}


def heard_spans(heard: np.ndarray, transcript: np.ndarray) -> np.ndarray:
    """Each stretch of heard units with the mark that ends it, and its transcript without the token that ends that.

    Args:
        heard, transcript: [N] masks of one conversation.

    Returns:
        [P, 4]: begin and end of the one, begin and end of the other; empty where not each has a transcript.
    """
    units, texts = runs(heard), runs(transcript)
    if len(units) != len(texts):
        return np.zeros((0, 4), dtype=np.int64)
    return np.concatenate([units + (0, 1), texts - (0, 1)], axis=1)


def heard_positions(spans_P4: Tensor) -> Tensor:
    """[K]: the row's positions of all heard speech."""
    stretches = [torch.arange(first, last, device=spans_P4.device) for first, last in spans_P4[:, :2].tolist()]
    return torch.cat([spans_P4.new_zeros(0), *stretches])


def ctc_loss(logits_KC: Tensor, input_ids_N: Tensor, spans_P4: Tensor) -> Tensor:
    """CTC of the transcripts, a mean over their tokens; the last class is the blank.

    Args:
        logits_KC: at ``heard_positions``.
    """
    blank = logits_KC.shape[1] - 1
    lengths = (spans_P4[:, 1] - spans_P4[:, 0]).tolist()
    # One write for all stretches: a copy of each, as pad_sequence makes, costs a pass over everything in its gradient.
    stretch_K = np.repeat(np.arange(len(lengths)), lengths)
    place_K = np.concatenate([np.arange(length) for length in lengths])
    where = tuple(torch.from_numpy(index).to(logits_KC.device) for index in (place_K, stretch_K))
    log_probs_TPC = logits_KC.new_zeros((max(lengths), len(lengths), blank + 1), dtype=torch.float32)
    log_probs_TPC = log_probs_TPC.index_put(where, logits_KC.float().log_softmax(-1))
    targets = [input_ids_N[first:last] for first, last in spans_P4[:, 2:].tolist()]
    sizes = [len(each) for each in targets]
    losses_P = functional.ctc_loss(
        log_probs_TPC, torch.cat(targets), tuple(lengths), tuple(sizes), blank,  # type: ignore[arg-type]
        reduction="none", zero_infinity=True,
    )  # fmt: skip
    return losses_P.sum() / max(1, sum(sizes))
