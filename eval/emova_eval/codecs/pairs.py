"""Pairs of a speech tokenizer and a decoder for its units, as they are named on the command line and as they work.

Shapes: T samples, U units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emova.checkpoint.loading import check_learnt, check_units, find_part
from emova.checkpoint.registry import load_detokenizer, load_tokenizer
from emova.core.errors import InputError
from emova.core.io import shown
from emova.speech.audio import AudioLimits
from emova.speech.style import Style, StylePrototypes
from emova.speech.tokenizer.streaming import listen
from emova.speech.tokenizer.units import named_units
from emova.speech.voice import Voice
from emova_eval.suite.run_folder import hash_model, hash_path
from emova_eval.suite.samples import Output
from emova_eval.tokenizer.measures import at_rate


@dataclass(frozen=True)
class Pair:
    """One row of the table.

    Attributes:
        name: what the table calls it.
        tokenizer, detokenizer: folders, or checkpoints that have the part; no ``detokenizer``: it only hears.
        prototypes: the file or folder of the style vectors; empty takes those beside the decoder.
        made_by: the commands that make what is missing, for the message.
    """

    name: str
    tokenizer: str
    detokenizer: str = ""
    prototypes: str = ""
    made_by: str = ""


FSQ, VQ, KMEANS = "FSQ 25 Hz + VITS", "VQ 12.5 Hz + flow", "k-means"
DEFAULTS = (
    Pair(FSQ, "emova-nano", "emova-nano"),
    Pair(VQ, "runs/vq-nano/export", "runs/flow-nano-blocks/export",
         made_by="`emova train vq nano`, `emova train flow nano` and `emova train flow nano_blocks`"),
    Pair(KMEANS, "runs/kmeans-nano/export", made_by="`emova train kmeans nano`"),
)  # fmt: skip
PROTOTYPES_BY = "emova train prototypes nano_blocks --detokenizer {} --recogniser acoustic"


def parse_pair(text: str) -> Pair:
    """``NAME=TOKENIZER[,DETOKENIZER[,PROTOTYPES]]``. Raises: InputError: it has another form."""
    name, equals, rest = text.partition("=")
    places = [place.strip() for place in rest.split(",")]
    if not (name.strip() and equals and places[0]) or len(places) > 3:
        raise InputError(f"{shown(text)}: no pair; give NAME=TOKENIZER[,DETOKENIZER[,PROTOTYPES]]")
    return Pair(name.strip(), *places)


def parse_pairs(texts: Sequence[str]) -> tuple[Pair, ...]:
    """The pairs that are named, or the three of the shipped configs. Raises: InputError: a form or a name is wrong."""
    pairs = tuple(parse_pair(text) for text in texts) or DEFAULTS
    names = [pair.name for pair in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{twice[0]}: named twice; give each pair a name of its own")
    return pairs


@dataclass(frozen=True)
class Folders:
    """Where the parts of a pair lie; ``detokenizer`` and ``prototypes`` are None where it only hears."""

    tokenizer: Path
    detokenizer: Path | None
    prototypes: Path | None

    @property
    def digest(self) -> str:
        """A name for what the files hold."""
        found = [hash_model(folder) for folder in (self.tokenizer, self.detokenizer) if folder is not None]
        return hashlib.sha256(" ".join([*found, hash_path(self.prototypes or "")]).encode()).hexdigest()


def find_folders(pair: Pair) -> Folders:
    """The folders of a pair's parts. Raises: InputError: one is missing."""
    tokenizer = _find(pair, pair.tokenizer, "speech_tokenizer")
    if not pair.detokenizer:
        return Folders(tokenizer, None, None)
    voice = _find(pair, pair.detokenizer, "speech_detokenizer")
    near = [Path(pair.prototypes)] if pair.prototypes else [voice, voice.parent]
    files = [path / StylePrototypes.FILE_NAME if path.is_dir() else path for path in near]
    prototypes = next((path for path in files if path.is_file()), None)
    if prototypes is None:
        command = PROTOTYPES_BY.format(pair.detokenizer)
        raise InputError(f"{pair.name}: {shown(files[0])} is missing; `{command}` chooses the styles")
    return Folders(tokenizer, voice, prototypes)


def _find(pair: Pair, place: str, part: str) -> Path:
    try:
        folder = find_part(place, part)
    except InputError as error:
        if pair.made_by:
            raise InputError(f"{pair.name}: {shown(place)} is missing; {pair.made_by} make it") from None
        raise InputError(f"{pair.name}: {error}") from None
    if not (folder / "config.json").is_file():
        raise InputError(f"{pair.name}: {shown(folder)} has no config.json; give the export of a training")
    return folder


class Codec:
    """A pair's parts, loaded: an ``emova_eval.models.assistant.SpeechCodec``.

    Raises:
        InputError: a part is missing or damaged, or the decoder says other units than the tokenizer makes.
    """

    def __init__(self, pair: Pair) -> None:
        self.name = pair.name
        self.folders = find_folders(pair)
        self.tokenizer = load_tokenizer(self.folders.tokenizer)
        self.voice: Voice | None = None
        if self.folders.detokenizer is not None and self.folders.prototypes is not None:
            decoder = load_detokenizer(self.folders.detokenizer)
            prototypes = StylePrototypes.load(self.folders.prototypes)
            if prototypes.size != decoder.style_size:
                raise InputError(
                    f"{pair.name}: the styles have {prototypes.size} channels, the decoder takes {decoder.style_size}; "
                    f"`{PROTOTYPES_BY.format(pair.detokenizer)}` makes them anew"
                )
            self.voice = Voice(decoder, prototypes)
            if decoder.unit_rate != self.tokenizer.unit_rate:
                raise InputError(
                    f"{pair.name}: the tokenizer makes {self.tokenizer.unit_rate:g} units a second, the decoder says "
                    f"{decoder.unit_rate:g}; give the decoder that was trained on its units"
                )
            check_units(self.tokenizer, self.voice, pair.name)
            check_learnt(named_units(self.folders.detokenizer), self.folders.tokenizer, pair.name)

    def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
        """The units ``[U]`` of a file, or of samples ``[T]`` at 16 kHz."""
        heard = at_rate(audio, self.tokenizer.sample_rate) if isinstance(audio, np.ndarray) else audio
        return tuple(listen(self.tokenizer, heard, AudioLimits(), reject_silence=False))

    def render(self, units: Sequence[int], style: Style) -> Output:
        """Units ``[U]`` spoken in a style."""
        assert self.voice is not None, "a pair that only hears is not asked to speak"
        return Output(units=tuple(units), audio=self.voice.synthesize(units, style), sample_rate=self.voice.sample_rate)

    def resynthesize(self, audio: str, style: Style) -> Output:
        """A recording said again in a style."""
        return self.render(self.tokenize(audio), style)
