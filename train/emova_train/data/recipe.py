"""What a recipe left on the disk, ready to be drawn from: exchanges, pictures with questions, units of speech.

The layout is that of ``data/nano`` (see ``data_recipes/``): ``text/talk.jsonl``, ``pictures/*.tar``, ``units/*.jsonl``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
from PIL import Image

from emova.core.errors import InputError
from emova.core.tar_samples import Member, read_shard
from emova.speech.style import DEFAULT_STYLES, StyleSet
from emova_train.core.renamed import AUGMENTED, REGIONS, set_names

RowT = TypeVar("RowT")

PICTURE_ENDINGS = ("png", "jpg", "jpeg", "webp")


@dataclass(frozen=True)
class Exchange:
    """A question, its answer, and how the answer is spoken."""

    question: str
    answer: str
    emotion: str
    pitch: str
    type: str


@dataclass(frozen=True)
class Utterance:
    """A text spoken once, as units [U] uint16."""

    text: str
    units: np.ndarray
    voice: str
    split: str


@dataclass(frozen=True)
class Region:
    """A thing in a picture: its name or what is written there, and where, ``left, top, right, bottom`` in 0..1."""

    text: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """A picture in a shard, found by its place there, and what can be asked about it. ``reordered``: the caption with
    what it lists in other orders, if it lists names with their values."""

    key: str
    shard: Path
    offset: int
    size: int
    kind: str
    caption: str
    exchanges: tuple[Exchange, ...]
    regions: tuple[Region, ...] = ()
    reordered: tuple[str, ...] = ()

    def load(self) -> Image.Image:
        """The decoded RGB picture."""
        return Image.open(BytesIO(Member(self.shard, self.offset, self.size).read())).convert("RGB")


class Voices:
    """Utterances of one or more sets, by text.

    Args:
        rows: of ``units/{set}.jsonl``.
    """

    def __init__(self, rows: Iterable[Utterance]) -> None:
        self.all: list[Utterance] = list(rows)
        self.by_text: dict[str, list[Utterance]] = {}
        for row in self.all:
            self.by_text.setdefault(row.text, []).append(row)

    def __contains__(self, text: str) -> bool:
        return text in self.by_text

    def __len__(self) -> int:
        return len(self.all)

    def draw(self, text: str, rng: np.random.Generator) -> Utterance:
        """One of the utterances of ``text``."""
        spoken = self.by_text[text]
        return spoken[int(rng.integers(len(spoken)))]


@dataclass(frozen=True)
class Recipe:
    """One split of a recipe's data.

    Attributes:
        talk: exchanges without a picture.
        pictures: with their exchanges.
        questions: spoken questions, several voices a text.
        answers: spoken answers, one rendering a text, in the canonical voice.
        asr: utterances for transcription.
        tts: utterances for reading aloud.
    """

    talk: tuple[Exchange, ...]
    pictures: tuple[Picture, ...]
    questions: Voices
    answers: Voices
    asr: Voices
    tts: Voices


class _Exchange(TypedDict):
    question: str
    answer: str


class ExchangeRow(_Exchange, total=False):
    """A row of ``text/*.jsonl``, and of the questions of a picture's record."""

    emotion: str
    pitch: str
    type: str
    intent: str
    split: str


class UnitRow(TypedDict):
    """A row of ``units/*.jsonl``."""

    text: str
    voice: str
    split: str
    units: list[int]


class RegionRow(TypedDict):
    """What a picture shows at a place; ``box`` is left, top, right, bottom as shares of its size."""

    text: str
    box: tuple[float, float, float, float]


def _exchange(row: ExchangeRow, source: Path, styles: StyleSet) -> Exchange:
    emotion, pitch = row.get("emotion", styles.emotions[0]), row.get("pitch", styles.pitches[0])
    if emotion not in styles.emotions or pitch not in styles.pitches:
        raise InputError(
            f"{source}: a row has emotion {emotion!r}, pitch {pitch!r}, and the model has not; make the data again, or "
            "name them in the model's styles"
        )
    kind = row.get("type") or row.get("intent") or ""
    return Exchange(row["question"].strip(), row["answer"].strip(), emotion, pitch, kind)


def _regions(rows: Iterable[RegionRow], source: Path) -> tuple[Region, ...]:
    regions = []
    for row in rows:
        left, top, right, bottom = row["box"]
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise InputError(f"{source}: the region {row['text']!r} lies outside its picture; make the pictures again")
        regions.append(Region(row["text"], (left, top, right, bottom)))
    return tuple(regions)


def read_rows(path: Path, kind: type[RowT]) -> Iterator[RowT]:
    """The objects of a JSONL file; a missing file has none.

    Args:
        kind: a TypedDict, which says what a row must hold.

    Raises:
        InputError: a line is no JSON object, or lacks a field.
    """
    needed: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row: RowT = json.loads(line)
            except json.JSONDecodeError:
                raise InputError(f"{path}: line {number} is not a JSON object; make the file again") from None
            if not isinstance(row, dict):
                raise InputError(f"{path}: line {number} is not a JSON object; make the file again")
            if missing := sorted(needed - row.keys()):
                raise InputError(f"{path}: line {number} has no {missing[0]!r}; make the file again")
            yield row


def read_talk(root: Path, split: str, styles: StyleSet = DEFAULT_STYLES) -> tuple[Exchange, ...]:
    """The exchanges of ``text/talk.jsonl``, and those outside the model's world (``text/outside.jsonl``)."""
    paths = [root / "text" / name for name in ("talk.jsonl", "outside.jsonl")]
    return tuple(
        _exchange(row, path, styles)
        for path in paths
        for row in read_rows(path, ExchangeRow)
        if row.get("split") == split
    )


def read_units(root: Path, sets: Sequence[str], split: str | None, folder: str = "units") -> Voices:
    """The utterances of ``{folder}/{set}.jsonl``; ``split`` None takes all.

    Raises:
        InputError: a set has no file.
    """
    rows: list[Utterance] = []
    for name in sets:
        paths = [root / folder / f"{each}.jsonl" for each in set_names(name)]
        path = next((path for path in paths if path.is_file()), paths[0])
        if not path.is_file():
            raise InputError(
                f"{path}: missing; run `emova train units --set {paths[0].stem.removesuffix(AUGMENTED)}` first"
            )
        for row in read_rows(path, UnitRow):
            if (split is None or row["split"] == split) and row["units"]:
                units = np.asarray(row["units"], dtype=np.uint16)
                rows.append(Utterance(row["text"].strip(), units, row["voice"], row["split"]))
    return Voices(rows)


def read_pictures(root: Path, split: str, styles: StyleSet = DEFAULT_STYLES) -> tuple[Picture, ...]:
    """The pictures of ``pictures/{kind}-{split}-{n}.tar``; only their records are read now.

    Raises:
        InputError: a shard is damaged.
    """
    pictures: list[Picture] = []
    for shard in sorted((root / "pictures").glob(f"*-{split}-*.tar")):
        for key, members in read_shard(shard):
            picture = next((members[end] for end in PICTURE_ENDINGS if end in members), None)
            if picture is None:
                continue
            if "json" not in members:
                raise InputError(f"{shard}: {key} has a picture without a record; make the pictures again")
            try:
                record = json.loads(members["json"].read())
            except ValueError:
                raise InputError(f"{shard}: the record of {key} is damaged; make the pictures again") from None
            exchanges = tuple(_exchange(row, shard, styles) for row in record["questions"])
            regions = _regions(next((record[name] for name in REGIONS if name in record), ()), shard)
            kind, caption = record["kind"], record.get("caption", "").strip()
            reordered = tuple(record.get("reordered", ()))
            pictures.append(
                Picture(key, shard, picture.offset, picture.size, kind, caption, exchanges, regions, reordered)
            )
    return tuple(pictures)


def read_recipe(
    root: str | Path,
    split: str,
    *,
    speech: bool = True,
    questions: Sequence[str] = ("question",),
    asr: Sequence[str] = ("question",),
    tts: Sequence[str] = ("answer",),
    units: str = "units",
    styles: StyleSet = DEFAULT_STYLES,
) -> Recipe:
    """Read one split of a recipe's data.

    Args:
        speech: without it no units are read and the tasks that need them have no samples.
        questions: the sets of units that ask.
        asr: the sets of units for transcription.
        tts: the sets of units for reading aloud; all of them where none is of the split (one voice says each text
            once, so there may be none to hold out).
        units: the folder that the units are in.
        styles: the emotions and pitches that the model has.

    Raises:
        InputError: the folder or a set of units is missing, or a file is damaged.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; run `emova data make nano` first")
    nobody = Voices([])
    return Recipe(
        talk=read_talk(root, split, styles),
        pictures=read_pictures(root, split, styles),
        questions=read_units(root, questions, split, units) if speech else nobody,
        # The answers' texts are shared by the splits: what is held out are questions, pictures and voices.
        answers=read_units(root, ["answer"], None, units) if speech else nobody,
        asr=read_units(root, asr, split, units) if speech else nobody,
        tts=(read_units(root, tts, split, units) or read_units(root, tts, None, units)) if speech else nobody,
    )
