"""What a kind hands back: the picture, its facts, its caption and what can be asked about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from emova_data.nano.pictures.regions import Region
from emova_data.nano.pictures.vocabulary import PLAIN, Mood


@dataclass(frozen=True)
class Ask:
    """One thing that can be asked: question type, essential answer, slot value, mood of the answer, and how often it
    is chosen beside the others of the picture."""

    type: str
    key: str
    slot: str = ""
    mood: Mood = PLAIN
    weight: float = 1.0


class Told(NamedTuple):
    """What is said of a picture: its caption, what can be asked, and the caption's list of names with their values."""

    caption: str
    asks: tuple[Ask, ...]
    listed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """``image``: 224 x 224 RGB. ``facts``: what was drawn, as plain JSON values. ``caption``: all of it in words.
    ``regions``: what is where, in pixels of the image. ``listed``: names with their values, as the caption lists them
    in the picture's order."""

    image: Image.Image
    facts: Mapping[str, object]
    caption: str
    asks: tuple[Ask, ...]
    regions: tuple[Region, ...]
    listed: tuple[str, ...] = ()

    def reordered(self, rng: np.random.Generator) -> str:
        """The caption with what it lists in another order."""
        assert len(self.listed) > 1 and listing(self.listed) in self.caption
        parts = self.listed
        while parts == self.listed:
            parts = tuple(self.listed[i] for i in rng.permutation(len(self.listed)))
        return self.caption.replace(listing(self.listed), listing(parts), 1)


def listing(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
