"""Packs of even length under budgets: which conversations go together into one row.

Shape letters: N conversations, M measures (all tokens, image tokens, speech tokens, ...), P packs.
"""

from __future__ import annotations

import numpy as np


def balance(sizes_NM: np.ndarray, budgets_M: np.ndarray) -> list[list[int]]:
    """Lay N conversations into the fewest packs found that keep every budget, as even as they get.

    Longest first, each into the pack that is then least full; where one fits in none, all are laid anew into one pack
    more. Every conversation must fit into a pack alone.

    Returns:
        The conversations of each pack, as indices in ascending order.
    """
    assert sizes_NM.ndim == 2 and len(sizes_NM) and (sizes_NM <= budgets_M).all()
    shares_NM = sizes_NM / budgets_M
    longest_first = np.argsort(-shares_NM.max(axis=1), kind="stable")
    count = max(1, int(np.ceil(shares_NM.sum(axis=0).max() - 1e-9)))
    while True:
        filled_PM = np.zeros((count, shares_NM.shape[1]))
        packs: list[list[int]] = [[] for _ in range(count)]
        for index in longest_first:
            fuller_P = (filled_PM + shares_NM[index]).max(axis=1)
            best = int(np.argmin(fuller_P))
            if fuller_P[best] > 1 + 1e-9:
                break
            filled_PM[best] += shares_NM[index]
            packs[best].append(int(index))
        else:
            return [sorted(pack) for pack in packs if pack]
        count += 1


def deal(sizes_NM: np.ndarray, budgets_M: np.ndarray, each: int) -> list[list[int]]:
    """Lay N conversations into packs of ``each`` conversations exactly, as even in tokens as they get.

    Longest first, each into the pack with room that is then least full. ``each`` divides N.

    Returns:
        The conversations of each pack, as indices in ascending order.
    """
    assert sizes_NM.ndim == 2 and len(sizes_NM) and len(sizes_NM) % each == 0
    shares_NM = sizes_NM / budgets_M
    filled_PM = np.zeros((len(sizes_NM) // each, shares_NM.shape[1]))
    packs: list[list[int]] = [[] for _ in range(len(filled_PM))]
    for index in np.argsort(-shares_NM.max(axis=1), kind="stable"):
        fuller_P = (filled_PM + shares_NM[index]).max(axis=1)
        fuller_P[[len(pack) == each for pack in packs]] = np.inf
        best = int(np.argmin(fuller_P))
        filled_PM[best] += shares_NM[index]
        packs[best].append(int(index))
    return [sorted(pack) for pack in packs]
