"""The same sentences by many voices, clean and augmented, as units: what emova-nano learns to write down from.

``text/aloud.jsonl`` to ``heard/heard-NNNNN.jsonl``, rows of ``{id, text, units, voice, augmented}``. A sentence is said
by one voice drawn for it: hibari's voices made by rule in any style, flite's, and voices between two of Kokoro's where
Kokoro is there. Half of them are augmented: other speeds and vocal tracts, rooms and noise. The held-out families
(piper, festival) read the test's sentences: ``heard_test/``.

    python -m emova_train.data.heard --root data
    python -m emova_train.data.heard --root data --test
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soxr
import torch

from emova.core.errors import InputError
from emova.core.seeding import generator
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova_data.nano.aloud.spoken import LONGEST, Sentence, Spoken, add_arguments, make_shards, to_say
from emova_data.nano.speech.sets import SPEECH_RATE
from emova_data.nano.voices.styles import NANO_STYLES
from emova_data.nano.voices.voices import FESTIVAL_VOICES, FLITE_VOICES, KOKORO_ALL, PSEUDO_VOICES, Voices
from emova_data.records.packed_units import pack_units
from emova_train.core.program import run_module
from emova_train.data.units import MAX_SPEED
from emova_train.s2u.data import faster, other_vocal_tract, perturb

AUGMENTED = 0.5
"""The share of the sentences that are augmented."""
SHARES = {"pseudo": 0.5, "canonical": 0.12, "flite": 0.13, "kokoro": 0.25}
_HELD_OUT = ("piper/joe", *(f"festival/{name}" for name in FESTIVAL_VOICES))


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def drawn_voice(rng: np.random.Generator, kokoro: bool) -> str:
    """A training voice; without Kokoro its share goes to the voices made by rule."""
    kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
    if kind == "canonical":
        return _one(("hibari/female", "hibari/male"), rng)
    if kind == "flite":
        return f"flite/{_one(tuple(FLITE_VOICES), rng)}"
    if kind == "kokoro" and kokoro:
        voice = _one(KOKORO_ALL, rng)
        others = [other for other in KOKORO_ALL if other != voice and other[1] == voice[1]]
        return f"kokoro/{voice}+{_one(others, rng)}" if rng.random() < 0.6 else f"kokoro/{voice}"
    return f"hibari/p{int(rng.integers(PSEUDO_VOICES)):02d}"


class Heard(Spoken):
    """A sentence by a voice, and whether it was perturbed."""

    voice: str
    augmented: bool


def make_rows(
    rows: Sequence[Sentence], tokenizer: SpeechTokenizer, seed: int, *, sources: Path, test: bool = False
) -> list[Heard]:
    """The rows said by voices drawn for each; of the test's, by the held-out families in turn, clean."""
    voices, kokoro = Voices(sources), (sources / "kokoro" / "kokoro.onnx").is_file()
    made: list[Heard] = []
    babble = np.zeros(SPEECH_RATE, np.float32)
    for number, row in enumerate(rows):
        rng = generator("heard", seed, row["text"])
        voice = _HELD_OUT[number % len(_HELD_OUT)] if test else drawn_voice(rng, kokoro)
        emotion, pitch = "neutral", "normal"
        if voice.startswith("hibari") and rng.random() < 0.6:
            emotion, pitch = _one(NANO_STYLES.emotions, rng), _one(NANO_STYLES.pitches, rng)
        try:
            utterance = voices.speak(voice, row["text"], emotion, pitch, seed)
        except InputError:
            if test:
                raise
            continue
        if utterance.seconds > LONGEST or not len(utterance.samples):
            continue
        samples = soxr.resample(utterance.samples, utterance.sample_rate, SPEECH_RATE).astype(np.float32)
        augmented = not test and rng.random() < AUGMENTED
        clean = samples
        if augmented:
            samples = faster(samples, float(np.exp(rng.uniform(-MAX_SPEED, MAX_SPEED))))
            samples = perturb(other_vocal_tract(samples, rng), babble, rng)
        babble = clean
        with torch.inference_mode():
            ready = torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None]
            units = tokenizer.encode(ready, torch.tensor([ready.shape[1]]))[0].tolist()
        made.append(
            {"id": row["id"], "text": row["text"], "units": pack_units(units), "voice": voice, "augmented": augmented}
        )
    return made


def make(
    root: Path, tokenizer: str, *, test: bool = False, jobs: int = 1, first: int = 0, last: int | None = None,
    seed: int = 0,
) -> int:  # fmt: skip
    """Make the shards of ``text/aloud.jsonl`` below ``root``, or those of the test; how many were made now."""
    nano, name = root / "nano", "heard_test" if test else "heard"
    rows = to_say(nano / "text" / ("aloud_test.jsonl" if test else "aloud.jsonl"))
    if not test:
        # Another order than reading aloud has, so that both have met other sentences when neither is whole.
        order = generator("heard order", seed).permutation(len(rows))
        rows = [rows[int(index)] for index in order]
    maker = partial(make_rows, sources=nano / "sources", test=test)
    return make_shards(rows, nano / name, name, tokenizer, maker, jobs=jobs, first=first, last=last, seed=seed)


def register(parser: argparse.ArgumentParser) -> None:
    """The program's arguments."""
    add_arguments(parser)
    parser.add_argument("--test", action="store_true", help="the test's sentences by the held-out voices")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    make(arguments.root, arguments.tokenizer, test=arguments.test, jobs=arguments.jobs, first=arguments.first,
         last=arguments.last, seed=arguments.seed)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(run_module(register, "emova_train.data.heard", (__doc__ or "").split("\n")[0]))
