"""Speech for the S2U streamed from converted sets, where a cache of decoded recordings would not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from emova.speech.tokenizer.phones import PhoneInventory
from emova_train.data.clip_reader import ClipStream, Pooled, StreamConfig, decoded, find_sources
from emova_train.data.sample_reader import BadSample
from emova_train.data.shard_cache import SAMPLE_RATE
from emova_train.data.shards import Raw
from emova_train.s2u.data import Clip, SourceConfig, Views, alike, clip_of
from emova_train.s2u.screening import holds_speech

Heard = tuple[Clip, np.ndarray]
"""A clip and its samples, ``[T]`` float32 at 16 kHz."""


@dataclass(frozen=True)
class StreamedClips:
    """Decodes samples to clips and lays them out by length.

    Attributes:
        max_seconds: longer clips are left out.
        batch_seconds: most seconds of clean speech in a batch.
        labelled: whether the phones are learnt; else recordings that hold speech are.
    """

    inventory: PhoneInventory
    max_seconds: float
    batch_seconds: float
    labelled: bool = True

    def decode(self, raw: Raw) -> Heard:
        """Raises: BadSample: no phones, nothing to hear, or too long."""
        fields = raw.fields
        if self.labelled and not fields.get("phones"):
            raise BadSample("no phones (convert with transcripts and --g2p)")
        samples = decoded(raw, SAMPLE_RATE)
        if not self.labelled and not holds_speech(samples):
            raise BadSample("no speech in it")
        rows = fields.get("alignment")
        alignment = rows and [(phone, round(a * SAMPLE_RATE), round(b * SAMPLE_RATE)) for phone, a, b in rows]
        clip, _ = clip_of(
            self.inventory, self.max_seconds, list(fields.get("phones") or ()), alignment, self.labelled, key=raw.id,
            shard=0, start=0, length=len(samples), family=fields.get("family") or "", voice=fields.get("voice") or "",
        )  # fmt: skip
        if clip is None:
            raise BadSample(f"longer than {self.max_seconds:g} s, or too short for what it holds")
        return clip, samples

    def lay_out(self, pool: Sequence[Heard], rng: np.random.Generator) -> list[list[int]]:
        """Batches of alike length, in random order."""
        batches = alike([clip.length for clip, _ in pool], range(len(pool)), self.batch_seconds)
        return [batches[index] for index in rng.permutation(len(batches))]


def streamed(
    sources: Sequence[SourceConfig], clips: StreamedClips, views: Views, config: StreamConfig
) -> ClipStream[Heard]:
    """The training set of the sets that the patterns name, in batches of two views.

    Raises:
        InputError: see ``find_sources``.
    """
    found = find_sources([(source.pattern, source.repeat) for source in sources])

    def make(group: Pooled[Heard]) -> dict[str, Tensor]:
        rng = np.random.default_rng(np.random.randint(2**31))
        return views.batch(group.items, lambda: group.pool[int(rng.integers(len(group.pool)))][1], rng)

    return ClipStream(found, clips.decode, clips.lay_out, make, config)
