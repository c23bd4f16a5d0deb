"""One rendered conversation as arrays: its tokens, and what each of them teaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from emova.core.tokens import TokenIds
from emova.model.processing_emova import Rendered
from emova_train.data.recipe import Region

KINDS = ("text", "transcript", "answer", "style", "units", "skeleton", "prompt_units", "prompt_text")
"""What a position teaches. A loss has a weight for each, and each is logged; ``skeleton`` is a reply's keys and
punctuation, ``prompt_*`` is what the user says."""
TEXT, TRANSCRIPT, ANSWER, STYLE, UNITS, SKELETON, PROMPT_UNITS, PROMPT_TEXT = range(len(KINDS))
NOTHING = -1

MODALITIES = ("text", "image", "speech", "omni")
"""What a conversation holds beside text; the loss is logged for each (``loss_image``, ...)."""


@dataclass(frozen=True)
class ShownPicture:
    """What is known of a conversation's picture: its size in pixels (width, height) and its annotated regions."""

    size: tuple[int, int]
    regions: tuple[Region, ...]


@dataclass(frozen=True)
class Example:
    """One rendered conversation.

    Attributes:
        ids: [N] int64.
        kinds: [N] int8, what each position teaches, NOTHING where it is only read.
        pixel_values: [tiles, 3, height, width] or None.
        grids: rows and columns of each picture.
        task: where it came from.
        shown: its picture, where it has one whose regions are known.
    """

    ids: np.ndarray
    kinds: np.ndarray
    pixel_values: Tensor | None
    grids: tuple[tuple[int, int], ...]
    task: str
    shown: ShownPicture | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modality(self) -> int:
        """Its place in ``MODALITIES``."""
        speech = bool(np.isin(self.kinds, (UNITS, PROMPT_UNITS)).any())
        return int(self.pixel_values is not None) + 2 * int(speech)


def example(rendered: Rendered, assistant_kinds: Sequence[int], token_ids: TokenIds, task: str = "") -> Example:
    """A rendered conversation and what its assistant tokens teach, as arrays.

    Args:
        rendered: of ``EmovaProcessor.render_training``.
        assistant_kinds: one for each position of ``rendered.loss_mask`` that is true.
    """
    ids = np.asarray(rendered.input_ids, dtype=np.int64)
    learnt = np.asarray(rendered.loss_mask, dtype=bool)
    assert int(learnt.sum()) == len(assistant_kinds), "the rendering and the kinds disagree"
    kinds = np.full(len(ids), NOTHING, dtype=np.int8)
    heard = (ids >= token_ids.first_unit) & (ids < token_ids.first_unit + token_ids.codebook_size)
    kinds[heard & ~learnt] = PROMPT_UNITS
    kinds[(ids < token_ids.pad) & ~learnt] = PROMPT_TEXT  # text tokens lie below the control tokens
    kinds[learnt] = assistant_kinds
    kinds[0] = NOTHING  # nothing comes before it to predict it from
    grids = tuple((grid.rows, grid.columns) for grid in rendered.image_grids)
    return Example(ids, kinds, rendered.pixel_values, grids, task)


def runs(mask: Sequence[bool] | np.ndarray) -> np.ndarray:
    """[R, 2]: where each run of true values begins, and where it has ended."""
    padded = np.concatenate([[0], np.asarray(mask, dtype=np.int8), [0]])
    return np.flatnonzero(np.diff(padded)).reshape(-1, 2)
