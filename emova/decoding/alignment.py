"""Where in the speech each token of a transcript lies: CTC's likeliest alignment of the two (Graves et al. 2006,
Connectionist Temporal Classification, section 4.1).

Shape letters: T positions of speech units, C text tokens and the blank (the last), N tokens of the text, S = 2 N + 1
tokens with blanks around each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def align(log_probs_TC: np.ndarray, tokens: Sequence[int]) -> np.ndarray | None:
    """``[N, 2]`` the first and the last position of each of ``tokens``; None if they have no room in the speech."""
    count, blank = len(log_probs_TC), log_probs_TC.shape[1] - 1
    labels_S = np.full(2 * len(tokens) + 1, blank)
    labels_S[1::2] = tokens
    scores_TS = log_probs_TC[:, labels_S].astype(np.float64)
    skips_S = np.zeros(len(labels_S), dtype=bool)  # no blank is needed between two different tokens
    skips_S[3::2] = labels_S[3::2] != labels_S[1:-2:2]
    best_S = np.full(len(labels_S), -np.inf)
    best_S[:2] = scores_TS[0, :2]
    came_TS = np.zeros((count, len(labels_S)), dtype=np.int8)
    ways_3S = np.full((3, len(labels_S)), -np.inf)
    for t in range(1, count):
        ways_3S[0], ways_3S[1, 1:] = best_S, best_S[:-1]
        ways_3S[2, 2:] = np.where(skips_S[2:], best_S[:-2], -np.inf)
        came_TS[t] = ways_3S.argmax(axis=0)
        best_S = ways_3S[came_TS[t], np.arange(len(labels_S))] + scores_TS[t]
    place = len(labels_S) - 1
    if tokens and best_S[-2] > best_S[-1]:
        place -= 1
    if not np.isfinite(best_S[place]):
        return None
    path_T = np.zeros(count, dtype=np.int64)
    for t in range(count - 1, -1, -1):
        path_T[t] = place
        place -= came_TS[t, place]
    wanted = 2 * np.arange(len(tokens)) + 1
    return np.stack([np.searchsorted(path_T, wanted), np.searchsorted(path_T, wanted, side="right") - 1], axis=1)
