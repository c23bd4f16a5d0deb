"""The 24 speaking styles of EMOVA (§4.2): gender, emotion and pitch, and the style vector that stands for each.

Shape letters: S style channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emova.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

GENDERS = ("female", "male")
EMOTIONS = ("neutral", "happy", "sad", "angry")
PITCHES = ("normal", "low", "high")
DEFAULT_VOICE = "female"
DEFAULT_EMOTION = "neutral"
DEFAULT_PITCH = "normal"


def _choose(what: str, value: str, options: tuple[str, ...]) -> str:
    cleaned = value.strip().lower() if isinstance(value, str) else ""
    if cleaned not in options:
        # The value is echoed, shortened and on one line, so that the user sees which of the words was meant.
        raise InputError(f"{what} {str(value)[:40]!r} is unknown; choose one of {', '.join(options)}")
    return cleaned


def check_voice(value: str) -> str:
    """The voice (gender) that a user asked for. Raises: InputError."""
    return _choose("voice", value, GENDERS)


def check_emotion(value: str) -> str:
    """The emotion that a user asked for. Raises: InputError."""
    return _choose("emotion", value, EMOTIONS)


def check_pitch(value: str) -> str:
    """The pitch that a user asked for. Raises: InputError."""
    return _choose("pitch", value, PITCHES)


@dataclass(frozen=True)
class Style:
    """One of the 24 ways to speak."""

    gender: str = DEFAULT_VOICE
    emotion: str = DEFAULT_EMOTION
    pitch: str = DEFAULT_PITCH

    def __post_init__(self) -> None:
        assert self.gender in GENDERS and self.emotion in EMOTIONS and self.pitch in PITCHES, self

    @property
    def key(self) -> str:
        """The name of this style in files, such as ``gender-female_emotion-happy_pitch-high``."""
        return f"gender-{self.gender}_emotion-{self.emotion}_pitch-{self.pitch}"

    @classmethod
    def parse(cls, voice: str = DEFAULT_VOICE, emotion: str = DEFAULT_EMOTION, pitch: str = DEFAULT_PITCH) -> Style:
        """A style from a user's words. Raises: InputError: a word is not one of the enumeration."""
        return cls(check_voice(voice), check_emotion(emotion), check_pitch(pitch))

    @classmethod
    def from_key(cls, key: str) -> Style:
        """The inverse of ``key``. Raises: InputError."""
        for style in ALL_STYLES:
            if style.key == key:
                return style
        raise InputError(f"style {key[:80]!r} is unknown; a style reads like {Style().key}")


def style_from_model(gender: str, emotion: str | None, pitch: str | None) -> tuple[Style, bool]:
    """The style that a model's words name, and whether both words were understood.

    A word outside the enumeration falls back to neutral or normal: a strange word must not cost the user the answer.
    """
    emotion = emotion.strip().lower() if emotion is not None else None
    pitch = pitch.strip().lower() if pitch is not None else None
    understood = emotion in EMOTIONS and pitch in PITCHES
    return (
        Style(
            gender,
            emotion if emotion in EMOTIONS else DEFAULT_EMOTION,  # type: ignore[arg-type]
            pitch if pitch in PITCHES else DEFAULT_PITCH,  # type: ignore[arg-type]
        ),
        understood,
    )


ALL_STYLES = tuple(Style(gender, emotion, pitch) for gender in GENDERS for emotion in EMOTIONS for pitch in PITCHES)


class StylePrototypes:
    """One style vector ``[S]`` for each of the 24 styles (EMOVA §3.2), stored as safetensors ``{key: [S]}``."""

    FILE_NAME = "style_prototypes.safetensors"

    def __init__(self, vectors: Mapping[str, Tensor]) -> None:
        missing = [style.key for style in ALL_STYLES if style.key not in vectors]
        if missing:
            raise InputError(f"style prototypes: {missing[0]} is missing; all {len(ALL_STYLES)} styles are needed")
        shapes = {tuple(vector.shape) for vector in vectors.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise InputError("style prototypes: the vectors differ in shape; make them again with one style encoder")
        self._vectors = {style.key: vectors[style.key] for style in ALL_STYLES}

    def __getitem__(self, style: Style) -> Tensor:
        """The vector ``[S]`` of ``style``."""
        return self._vectors[style.key]

    @property
    def size(self) -> int:
        """S, the number of style channels."""
        return next(iter(self._vectors.values())).shape[0]

    @classmethod
    def load(cls, path: str | Path) -> StylePrototypes:
        """Read the file ``path``, or ``style_prototypes.safetensors`` in the folder ``path``, as float32.

        Raises:
            InputError: the file is missing, damaged, or lacks a style.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(path)
        if path.is_dir():
            path = path / cls.FILE_NAME
        if not path.is_file():
            raise InputError(f"{path}: missing; a checkpoint needs it, copy the whole folder again")
        try:
            vectors = {name: tensor.float() for name, tensor in load_file(path).items()}
        except SafetensorError:
            raise InputError(f"{path}: the file is damaged; copy the whole folder again") from None
        try:
            return cls(vectors)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write all vectors as float32; the file appears whole or not at all. Raises: InputError."""
        from emova.writing import save_tensors

        path = Path(path)
        if path.is_dir():
            path = path / self.FILE_NAME
        save_tensors(path, {key: vector.float().contiguous() for key, vector in self._vectors.items()})
