"""What a kind hands back: the picture, its facts, its caption and what can be asked about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from data_recipes.nano.pictures.marks import Mark
from data_recipes.nano.pictures.vocabulary import PLAIN, Mood


@dataclass(frozen=True)
class Ask:
    """One thing that can be asked: question type, essential answer, slot value, mood of the answer, and how often it
    is chosen beside the others of the picture."""

    type: str
    key: str
    slot: str = ""
    mood: Mood = PLAIN
    weight: float = 1.0


@dataclass(frozen=True)
class Drawn:
    """``image``: 224 x 224 RGB. ``facts``: what was drawn, as plain JSON values. ``caption``: all of it in words.
    ``marks``: what is where, in pixels of the image."""

    image: Image.Image
    facts: Mapping[str, Any]
    caption: str
    asks: tuple[Ask, ...]
    marks: tuple[Mark, ...]


def listing(parts: list[str]) -> str:
    """``a, b and c``."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
