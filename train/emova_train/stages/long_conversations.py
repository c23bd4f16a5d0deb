"""What is asked in conversations of many turns: talk and pictures mixed, spoken and typed.

A model that has seen one turn or two answers rubble after five: whatever it attends to, there is more of it than ever
before. Turns cost nothing here, since every reply of a conversation is learnt; only the exchanges before it are new.

Which exchanges come together is left to chance: nothing in one should be taken from another, except that a question
about a picture may come turns after the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emova.core.errors import InputError
from emova_train.data.recipe import Exchange, Picture


@dataclass(frozen=True)
class LongConfig:
    """How long conversations are made.

    Attributes:
        turns: most turns of one.
        typed: the share of conversations that are typed throughout; of the others a fifth of the turns is typed.
        pictured: the share of conversations in which a picture is shown at some turn.
        asked_on: the share of the turns after a picture that ask about it.
        positions: at about so many a conversation ends; a sample beyond ``max_tokens`` would be left out whole.
    """

    turns: int = 8
    typed: float = 0.3
    pictured: float = 0.5
    asked_on: float = 0.5
    positions: int = 960

    def __post_init__(self) -> None:
        if self.turns < 2:
            raise InputError(f"turns={self.turns}: a long conversation has 2 or more")
        for name in ("typed", "pictured", "asked_on"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name):g}: give a share between 0 and 1")


@dataclass(frozen=True)
class PlannedTurn:
    """An exchange, whether it is typed, and the picture that is shown with it."""

    exchange: Exchange
    typed: bool
    picture: Picture | None = None


def plan(
    config: LongConfig,
    talk: Sequence[Exchange],
    pictures: Sequence[tuple[Picture, Sequence[Exchange]]],
    rng: np.random.Generator,
) -> list[PlannedTurn]:
    """What is asked in a conversation of 2 to ``config.turns`` turns.

    Args:
        talk: exchanges without a picture.
        pictures: each with the exchanges about it.
    """
    turns = int(rng.integers(2, config.turns + 1))
    all_typed = rng.random() < config.typed
    shown_at = int(rng.integers(turns)) if pictures and rng.random() < config.pictured else turns
    shown: tuple[Picture, Sequence[Exchange]] | None = None
    planned: list[PlannedTurn] = []
    for turn in range(turns):
        typed = all_typed or rng.random() < 0.2
        if turn == shown_at:
            shown = pictures[int(rng.integers(len(pictures)))]
        about = shown is not None and (turn == shown_at or rng.random() < config.asked_on)
        exchanges = shown[1] if shown is not None and about else talk
        exchange = exchanges[int(rng.integers(len(exchanges)))]
        planned.append(PlannedTurn(exchange, typed, shown[0] if shown is not None and turn == shown_at else None))
    return planned
