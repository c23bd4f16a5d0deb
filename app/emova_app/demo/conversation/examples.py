"""What one may ask, to begin with: questions that the shipped model answers rightly, each with what it must say."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from emova.cli.common import EXAMPLES as SHIPPED
from emova.core.errors import InputError
from emova.speech.audio import load_audio
from emova.vision.image import load_image

FOLDER = Path(__file__).parents[1] / "examples"


@dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
        name: by which a page asks it.
        asks: its words.
        answer: words that stand in the right answer.
        picture, sound: names of files; a question without sound is a written one.
        alt: what the picture is, in words.
    """

    name: str
    asks: str
    answer: str
    picture: str = ""
    sound: str = ""
    alt: str = ""

    @cached_property
    def image(self) -> Image.Image | None:
        """The picture."""
        return load_image(_path(self.picture)) if self.picture else None

    def samples(self, rate: int) -> np.ndarray | None:
        """The spoken question, ``[T]`` at ``rate`` Hz."""
        return load_audio(_path(self.sound), rate) if self.sound else None

    @property
    def thumbnail(self) -> str:
        """A small copy of the picture as a data URL, or nothing."""
        if self.image is None:
            return ""
        buffer = io.BytesIO()
        self.image.resize((144, 144), Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=80)
        return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _path(name: str) -> Path:
    return FOLDER / name if (FOLDER / name).is_file() else SHIPPED / name


EXAMPLES = tuple(Example(**each) for each in json.loads((FOLDER / "examples.json").read_text(encoding="utf-8")))


def example(name: object) -> Example:
    """The example of this name. Raises: InputError: there is none."""
    for each in EXAMPLES:
        if each.name == name:
            return each
    raise InputError("there is no such example; choose one of those that are shown")
