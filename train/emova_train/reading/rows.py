"""Sentences and their units, packed into rows of one length: a processor builds its kernels once for one shape.

Shape letters: R rows of a batch, T positions of a row.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from emova.core.tokens import TokenIds
from emova.reply.format import SPEAK_PROMPT
from emova_data.nano.aloud.spoken import Aligned
from emova_data.records.packed_units import unpack_units

NOTHING = -100


@dataclass(frozen=True)
class Reading:
    """A sentence read aloud.

    Attributes:
        ids: [N] the conversation.
        said: where its units begin; the units and the end of speech are learnt.
        looks: [N, 2], the text tokens [first, last) that are spoken next, for each position from ``said`` - 1 on up to
            the last but one unit; (0, 0) where nothing is said.
    """

    ids: np.ndarray
    said: int
    looks: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def reading(row: Aligned, tokenizer: PreTrainedTokenizerBase, tokens: TokenIds, prompt: str = SPEAK_PROMPT) -> Reading:
    """The conversation of a row of ``emova_data.nano.aloud.spoken``."""
    encoded = tokenizer(prompt + row["text"], add_special_tokens=False, return_offsets_mapping=True)
    units = unpack_units(row["units"]).astype(np.int64)
    head = [
        tokens.begin_of_text, tokens.user, *encoded["input_ids"], tokens.end_of_turn, tokens.assistant,
        tokens.speech_start,
    ]  # fmt: skip
    ids = np.concatenate([head, units + tokens.first_unit, [tokens.speech_end, tokens.end_of_turn]])
    looks = np.zeros((len(ids), 2), np.int64)
    starts = np.asarray([start for start, _ in encoded["offset_mapping"]]) - len(prompt)
    ends = np.asarray([end for _, end in encoded["offset_mapping"]]) - len(prompt)
    for first, last, begin, end in row["words"]:
        # A token may begin with the space before its word.
        inside = np.flatnonzero((ends > first) & (starts < last))
        if len(inside):
            # Position p predicts unit p - said + 1, so it looks at what that unit says.
            here = slice(len(head) - 1 + int(begin), len(head) - 1 + max(round(end), int(begin) + 1))
            looks[here] = (2 + inside[0], 3 + inside[-1])
    looks[len(head) - 1 + len(units) :] = 0
    return Reading(ids, len(head), looks)


def fill_rows(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Which sentences share a row of ``length``: each goes where least is left over (best fit, longest first)."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for number in sorted(range(len(lengths)), key=lambda each: -lengths[each]):
        place = bisect_left(rooms, (lengths[number], -1))
        if place == len(rooms):
            rows.append([number])
            insort(rooms, (length - lengths[number], len(rows) - 1))
        else:
            room, row = rooms.pop(place)
            rows[row].append(number)
            insort(rooms, (room - lengths[number], row))
    return rows


def lay(readings: Sequence[Sequence[Reading]], length: int, pad: int) -> dict[str, np.ndarray]:
    """A batch of rows.

    Returns:
        ids [R, T]; targets [R, T], what each position should predict, ``NOTHING`` where nothing is learnt; owners
        [R, T], the number of the sentence in its row; looks [R, T, 2], in places of the row.
    """
    shape = (len(readings), length)
    ids, owners = np.full(shape, pad), np.full(shape, -1)
    targets, looks = np.full(shape, NOTHING), np.zeros((*shape, 2), np.int64)
    for row, sentences in enumerate(readings):
        at = 0
        for number, each in enumerate(sentences):
            here = slice(at, at + len(each))
            ids[row, here] = each.ids
            owners[row, here] = number
            targets[row, at + each.said - 1 : at + len(each) - 2] = each.ids[each.said : -1]
            looks[row, here] = np.where(each.looks[:, 1:] > 0, each.looks + at, 0)
            at += len(each)
    return {"ids": ids, "targets": targets, "owners": owners, "looks": looks}
