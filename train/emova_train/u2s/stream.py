"""Speech for the U2S streamed from tokenised sets that keep their recordings, where a cache would not fit.

A style's reference and the neutral rendering of a sentence are looked for in the pool that an utterance is of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from emova.checkpoint.loading import find_part
from emova.core.errors import InputError
from emova.speech.tokenizer.units import current, units_of
from emova_train.data.clip_reader import ClipStream, Pooled, decoded, find_sources
from emova_train.data.sample_reader import BadSample
from emova_train.data.shards import Raw
from emova_train.u2s.cache import NEUTRAL, SAMPLE_RATE, UNIT_SAMPLES, measure_f0
from emova_train.u2s.config import U2SDataConfig
from emova_train.u2s.data import collate, cut, draw_reference, draw_start, shake_digits


@dataclass(frozen=True)
class Spoken:
    """An utterance: ``samples`` [T] float32 at 24 kHz and ``f0`` at 100 Hz of as many whole units as ``units`` [U]."""

    samples: np.ndarray
    f0: np.ndarray
    units: np.ndarray
    sentence: tuple[str, str, str]
    """Text, voice, gender: what two renderings of one sentence share."""
    emotion: str
    pitch: str

    @property
    def style(self) -> tuple[str, str, str, str]:
        """What an utterance must share to be a style reference."""
        return (*self.sentence[1:], self.emotion, self.pitch)


def decode(raw: Raw) -> Spoken:
    """An utterance of a set that ``emova data tokenise --keep-audio`` wrote. Raises: BadSample."""
    fields = raw.fields
    part = fields["messages"][0]["content"][0]
    if not part.get("units"):
        raise BadSample("speech without units (see `emova data tokenise --keep-audio`)")
    samples = decoded(raw, SAMPLE_RATE)
    count = min(len(samples) // UNIT_SAMPLES, len(part["units"]))
    if count < 1:
        raise BadSample("shorter than a unit")
    kept = np.ascontiguousarray(samples[: count * UNIT_SAMPLES])
    f0 = measure_f0(np.clip(np.rint(kept * 32768), -32768, 32767).astype(np.int16))
    named = {name: str(fields.get(name) or "") for name in ("text", "voice", "gender", "emotion", "pitch")}
    sentence = (named["text"], named["voice"], named["gender"])
    return Spoken(
        kept, f0, np.asarray(part["units"][:count], np.int64), sentence, named["emotion"], named["pitch"]
    )  # fmt: skip


def windows(config: U2SDataConfig) -> Callable[[Pooled[Spoken]], dict[str, Tensor]]:
    """Makes a batch out of pooled utterances, drawn by numpy's generator, which the loader seeds."""

    def window(each: Spoken, pool: Sequence[Spoken]) -> dict[str, Tensor]:
        start = draw_start(config, len(each.units))
        said = each.units
        if np.random.random() < config.neutral_units:
            plain = (other for other in pool if other.sentence == each.sentence and len(other.units) == len(said)
                     and (other.emotion, other.pitch) == NEUTRAL)  # fmt: skip
            said = next(plain, each).units
        if config.digit_noise > 0:
            said = shake_digits(said, config.levels, config.digit_noise)
        alike = [other for other in pool if other is not each and other.style == each.style] or [each]
        shown = alike[int(np.random.randint(len(alike)))]
        first, end = draw_reference(config, len(shown.units))
        reference = shown.samples[first * UNIT_SAMPLES : end * UNIT_SAMPLES]
        return cut(config, start, said, len(each.units), each.samples, each.f0, reference)

    def batch(group: Pooled[Spoken]) -> dict[str, Tensor]:
        return collate([window(each, group.pool) for each in group.items])

    return batch


def streamed(config: U2SDataConfig, batch_size: int) -> ClipStream[Spoken]:
    """The training set of the sets that ``data.train`` names, in batches of ``batch_size`` utterances.

    Raises:
        InputError: they are no converted sets, hold another tokenizer's units, or the config asks for what only a cache
            can give.
    """
    if config.other_tokenizers or config.augmented:
        raise InputError(
            "data.other_tokenizers, data.augmented: only where recordings are cached; leave them out, or give "
            "data.stream.enabled=false"
        )
    sources = find_sources([(pattern, 1.0) for pattern in config.train])
    own = units_of(find_part(config.tokenizer, "speech_tokenizer"))
    for source, _ in sources:
        if current(source.units) != own:
            raise InputError(
                f"data.train: {source.name} holds units of {source.units[:40] or 'no known tokenizer'}, "
                f"data.tokenizer makes {own[:40]}; run `emova data tokenise --keep-audio` with that one"
            )

    def lay_out(pool: Sequence[Spoken], rng: np.random.Generator) -> list[list[int]]:
        return rng.permutation(len(pool)).reshape(-1, batch_size).tolist()

    # Whole batches, so that no utterance of a pool is left over.
    whole = replace(config.stream, pool=max(1, config.stream.pool // batch_size) * batch_size)
    return ClipStream(sources, decode, lay_out, windows(config), whole)
