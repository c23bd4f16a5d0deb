"""Speaking styles (EMOVA §4.2): voice (gender), emotion and pitch, and the style vector that stands for each.

Which words there are belongs to a checkpoint: its ``config.json`` holds them (``styles``), and the defaults below are
those of checkpoints that name none.

Shape letters: S style channels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from emova.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

_WORD = re.compile(r"[^\W_]+(?: [^\W_]+)*")
_LONGEST = 32  # characters of a word


@dataclass(frozen=True)
class Style:
    """One way to speak. A ``StyleSet`` says which there are."""

    gender: str = "female"
    emotion: str = "neutral"
    pitch: str = "normal"

    @property
    def key(self) -> str:
        """The name of this style in files, such as ``gender-female_emotion-happy_pitch-high``."""
        return f"gender-{self.gender}_emotion-{self.emotion}_pitch-{self.pitch}"


@dataclass(frozen=True)
class StyleSet:
    """The styles of a checkpoint: each voice speaks in each emotion at each pitch. The first of each is the default.

    Words are lower-case letters and digits, with single spaces between them: they stand in replies, file names and
    requests.

    Raises:
        InputError: a list is empty, or a word is malformed or there twice.
    """

    voices: tuple[str, ...] = (Style.gender, "male")
    emotions: tuple[str, ...] = (Style.emotion, "happy", "sad", "angry")
    pitches: tuple[str, ...] = (Style.pitch, "low", "high")

    def __post_init__(self) -> None:
        for each in fields(self):
            words = getattr(self, each.name)
            if isinstance(words, str) or not isinstance(words, Sequence) or not words:
                raise InputError(f"styles.{each.name}: no list of words; name one at least")
            for word in words:
                if (
                    not isinstance(word, str)
                    or len(word) > _LONGEST
                    or not _WORD.fullmatch(word)
                    or word != word.lower()
                ):
                    raise InputError(
                        f"styles.{each.name}: {str(word)[:40]!r} is no word for a style; use lower-case letters, "
                        f"digits and single spaces, {_LONGEST} characters at most"
                    )
            if len(set(words)) != len(words):
                raise InputError(f"styles.{each.name}: a word is there twice; name each once")
            object.__setattr__(self, each.name, tuple(words))

    @classmethod
    def from_dict(cls, values: object) -> StyleSet:
        """From ``styles`` of a checkpoint's ``config.json``; a list that is not there has its default words.

        Raises:
            InputError: a key is unknown, or a list is wrong.
        """
        if not isinstance(values, Mapping):
            raise InputError("styles: not a table of voices, emotions and pitches")
        names = [each.name for each in fields(cls)]
        unknown = [str(name) for name in values if name not in names]
        if unknown:
            raise InputError(f"styles: {unknown[0][:40]!r} is unknown; there are {', '.join(names)}")
        return cls(**values)  # type: ignore[arg-type]  # checked in __post_init__

    def to_dict(self) -> dict[str, list[str]]:
        """The inverse of ``from_dict``."""
        return {name: list(words) for name, words in asdict(self).items()}

    def __len__(self) -> int:
        """How many styles there are."""
        return len(self.all)

    def __iter__(self) -> Iterator[Style]:
        return iter(self.all)

    @cached_property
    def all(self) -> tuple[Style, ...]:
        """Every style, pitch changing first."""
        return tuple(Style(v, e, p) for v in self.voices for e in self.emotions for p in self.pitches)

    @property
    def default(self) -> Style:
        """How a text is read where nothing else is wished."""
        return self.plain(self.voices[0])

    def plain(self, voice: str) -> Style:
        """``voice`` without emotion."""
        return Style(voice, self.emotions[0], self.pitches[0])

    # --- words of users -------------------------------------------------------------------------------------------
    def check_voice(self, value: str) -> str:
        """The voice that a user asked for. Raises: InputError."""
        return _choose("voice", value, self.voices)

    def check_emotion(self, value: str) -> str:
        """The emotion that a user asked for. Raises: InputError."""
        return _choose("emotion", value, self.emotions)

    def check_pitch(self, value: str) -> str:
        """The pitch that a user asked for. Raises: InputError."""
        return _choose("pitch", value, self.pitches)

    def parse(self, voice: str | None = None, emotion: str | None = None, pitch: str | None = None) -> Style:
        """A style from a user's words; None is the default. Raises: InputError: there is no such word."""
        return Style(
            self.voices[0] if voice is None else self.check_voice(voice),
            self.emotions[0] if emotion is None else self.check_emotion(emotion),
            self.pitches[0] if pitch is None else self.check_pitch(pitch),
        )

    def check(self, style: Style) -> Style:
        """``style``, if it is one of these. Raises: InputError."""
        return self.parse(style.gender, style.emotion, style.pitch)

    def from_key(self, key: str) -> Style:
        """The style whose ``key`` this is. Raises: InputError."""
        for style in self.all:
            if style.key == key:
                return style
        raise InputError(f"style {key[:80]!r} is unknown; a style reads like {self.default.key}")

    # --- words of a model -----------------------------------------------------------------------------------------
    def from_model(self, voice: str, emotion: str | None, pitch: str | None) -> tuple[Style, bool]:
        """The style that a model's words name, and whether both words were understood.

        An unknown word falls back to the default: it must not cost the user the answer.
        """
        emotion, pitch = (None if word is None else word.strip().lower() for word in (emotion, pitch))
        known_emotion = emotion if emotion in self.emotions else None
        known_pitch = pitch if pitch in self.pitches else None
        style = Style(voice, known_emotion or self.emotions[0], known_pitch or self.pitches[0])
        return style, known_emotion is not None and known_pitch is not None


DEFAULT_STYLES = StyleSet()
"""The 24 styles of EMOVA (§4.2), and of each checkpoint that names no others."""

RELEASED_STYLES = StyleSet(
    voices=("female", "male", "female fast", "female slow", "male fast", "male slow"),
    emotions=(*DEFAULT_STYLES.emotions, "surprised", "disgusted", "fearful"),
    pitches=DEFAULT_STYLES.pitches,
)
"""The 126 styles of the released EMOVA models: a voice's name says the gender, and the speed where it is not the normal
one."""


def _choose(what: str, value: str, options: tuple[str, ...]) -> str:
    cleaned = value.strip().lower() if isinstance(value, str) else ""
    if cleaned not in options:
        # The value is echoed, shortened and on one line, so that the user sees which of the words was meant.
        raise InputError(f"{what} {str(value)[:40]!r} is unknown; choose one of {', '.join(options)}")
    return cleaned


class StylePrototypes:
    """One style vector ``[S]`` for each style (EMOVA §3.2), stored as safetensors ``{key: [S]}``.

    Raises:
        InputError: a style has no vector, or the vectors differ in shape.
    """

    FILE_NAME = "style_prototypes.safetensors"

    def __init__(self, vectors: Mapping[str, Tensor], styles: StyleSet = DEFAULT_STYLES) -> None:
        missing = [style.key for style in styles if style.key not in vectors]
        if missing:
            raise InputError(f"style prototypes: {missing[0]} is missing; all {len(styles)} styles are needed")
        self.styles = styles
        self._vectors = {style: vectors[style.key] for style in styles}
        shapes = {tuple(vector.shape) for vector in vectors.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise InputError("style prototypes: the vectors differ in shape; make them again with one style encoder")

    def __getitem__(self, style: Style) -> Tensor:
        """The vector ``[S]`` of ``style``. Raises: InputError: the checkpoint has no such style."""
        vector = self._vectors.get(style)
        return self._vectors[self.styles.check(style)] if vector is None else vector

    @property
    def size(self) -> int:
        """S, the number of style channels."""
        return next(iter(self._vectors.values())).shape[0]

    @classmethod
    def load(cls, path: str | Path, styles: StyleSet = DEFAULT_STYLES) -> StylePrototypes:
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
            return cls(vectors, styles)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write all vectors as float32; the file appears whole or not at all. Raises: InputError."""
        from emova.core.writing import save_tensors

        path = Path(path)
        if path.is_dir():
            path = path / self.FILE_NAME
        save_tensors(path, {style.key: vector.float().contiguous() for style, vector in self._vectors.items()})
