"""Speech with its words, for the supervised tokenizer: out of a cache of decoded shards, or streamed.

Words are a corpus's own, or what a Whisper heard (``emova train pseudo-labels``), in a ratio that the config gives.
Batch number i out of the cache is a function of the seed and i alone, so a resumed run sees what an uninterrupted one
would.

Shapes: B clips, T samples, L text tokens, P phones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from emova.core.errors import InputError
from emova.speech.tokenizer.phones import PhoneInventory
from emova.speech.tokenizer.whisper_vq.reader import IGNORED
from emova_data.records.recordings import Recording, RecordingFields
from emova_train.data.clip_reader import ClipStream, Pooled, StreamConfig, decoded, find_sources
from emova_train.data.sample_reader import BadSample
from emova_train.data.shard_cache import SAMPLE_RATE, decode_shard, found_shards
from emova_train.data.shards import Raw
from emova_train.s2u.data import alike, perturb
from emova_train.vq.whisper import TextTokens


@dataclass(frozen=True)
class TextSource:
    """Shards by a glob pattern; each clip counts ``repeat`` times an epoch. ``pseudo``: their words are a Whisper's.

    ``language`` is that of the words, as Whisper calls it; empty: the config's.
    """

    pattern: str = ""
    repeat: float = 1.0
    pseudo: bool = False
    language: str = ""


@dataclass(frozen=True)
class TextClip:
    """One utterance, by ``name_of``; ``start`` and ``length`` in samples of its shard's waveform."""

    key: str
    shard: int
    start: int
    length: int
    text: str
    phones: tuple[str, ...]
    family: str
    language: str = ""
    """Of its source."""


def label_path(folder: str | Path, shard: str | Path) -> Path:
    """Where a Whisper's words for a shard lie."""
    return Path(folder) / f"{Path(shard).stem}.json"


def name_of(record: RecordingFields, key: str) -> str:
    """What a recording is called in its shard's labels: the ``id`` of its JSON, else its ``key`` in the tar.

    Keys of a converted set only count its recordings, and one that is streamed is known by its id alone.
    """
    return str(record["id"]) if "id" in record else key


def read_labels(folder: str | Path, shard: str | Path) -> dict[str, str]:
    """A Whisper's words for a shard's recordings, by ``name_of``. Raises: InputError: it has none."""
    path = label_path(folder, shard)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path}: no labels of {shard}; make them with `emova train pseudo-labels`")
    return {str(name): str(words) for name, words in found.items()}


def check_names(shards: Iterable[str | Path]) -> None:
    """Raises: InputError: two shards have one name, so that their recordings and labels could not be told apart."""
    known: dict[str, Path] = {}
    for shard in shards:
        path = Path(shard).resolve()
        if (other := known.setdefault(path.stem, path)) != path:
            raise InputError(f"{path}: {other} has the same name, and its words lie under it; give one another name")


def _text_fields(recording: Recording) -> dict[str, object]:
    """What the index says of a recording."""
    record = recording.record
    return {
        "name": name_of(record, recording.key), "text": record.get("text") or "",
        "phones": list(record.get("phones") or ()), "family": record.get("family") or "",
    }  # fmt: skip


def decode_texts(path: str, folder: Path) -> Path:
    """Decode a shard into ``folder`` unless that is done already; gives the index file."""
    return decode_shard(path, folder, "texts", _text_fields)


class TextStore:
    """All clips of some sources that have words, decoded once, in memory-mapped int16.

    Args:
        labels: the folder of a Whisper's words, for sources with ``pseudo``.

    Raises:
        InputError: a pattern matches no shard, a shard has no labels or those of others, or no clip has words.
    """

    def __init__(
        self, sources: Sequence[TextSource], cache: str | Path, labels: str, max_seconds: float, whole: bool = False
    ) -> None:
        self.waves: list[np.ndarray] = []
        self.clips: list[TextClip] = []
        self.source: list[int] = []
        check_names(path for source in sources if source.pseudo for path in found_shards(source.pattern))
        for number, source in enumerate(sources):
            for path in found_shards(source.pattern):
                index_path = decode_texts(path, Path(cache))
                said = read_labels(labels, path) if source.pseudo else {}
                shard = len(self.waves)
                self.waves.append(np.load(index_path.with_suffix(".npy"), mmap_mode="r"))
                entries = json.loads(index_path.read_text(encoding="utf-8"))
                for entry in entries:
                    entry["key"] = entry.pop("name", entry["key"])  # caches of earlier versions have the key alone
                if said and said.keys().isdisjoint(entry["key"] for entry in entries):
                    raise InputError(
                        f"{label_path(labels, path)}: names no recording of {path}; remove it and {index_path}, and "
                        "run `emova train pseudo-labels` again"
                    )
                for entry in entries:
                    entry |= {"phones": tuple(entry["phones"]), "shard": shard, "language": source.language}
                    if source.pseudo:
                        entry["text"] = said.get(entry["key"], "")
                    clip = TextClip(**entry)
                    if (clip.text.strip() or whole) and 0 < clip.length <= max_seconds * SAMPLE_RATE:
                        self.clips.append(clip)
                        self.source.append(number)
        if not self.clips:
            raise InputError(
                f"{', '.join(source.pattern for source in sources)}: no recording has words; nothing to learn"
            )

    def samples(self, clip: TextClip) -> np.ndarray:
        """``[T]`` float32 in [-1, 1]."""
        return self.waves[clip.shard][clip.start : clip.start + clip.length].astype(np.float32) / 32768.0


def balanced(sources: Sequence[TextSource], counts: Sequence[int], ratio: float) -> list[float]:
    """How often a clip of each source comes an epoch, such that there are ``ratio`` pseudo-labelled for a labelled one.

    Labelled clips come as often as ``repeat`` says; without both kinds, or with a ratio of 0, all do.
    """
    shares = [source.repeat * count for source, count in zip(sources, counts, strict=True)]
    pseudo = sum(share for source, share in zip(sources, shares, strict=True) if source.pseudo)
    labelled = sum(shares) - pseudo
    factor = ratio * labelled / pseudo if pseudo and labelled and ratio else 1.0
    return [source.repeat * (factor if source.pseudo else 1.0) for source in sources]


@dataclass(frozen=True)
class TextBatches:
    """How clips become a batch.

    Attributes:
        text: Whisper's tokens.
        inventory: phones that the phone decoder tells apart.
        unit_samples: of the tokenizer; clips are filled up to whole units.
        perturbed: share of clips that are heard through rooms, microphones and noise.
        max_silence: seconds before and after a clip.
    """

    text: TextTokens
    inventory: PhoneInventory
    unit_samples: int
    perturbed: float
    max_silence: float = 0.3

    def batch(
        self, clips: Sequence[tuple[TextClip, np.ndarray]], other: Callable[[], np.ndarray], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """The batch of ``clips`` with their samples; ``other`` draws other speech by ``rng``, a kind of noise.

        ``samples`` ``[B, T]`` and their ``lengths``; ``tokens`` ``[B, L]`` that the decoder reads and the ``targets``
        behind them, ``IGNORED`` where there is nothing to learn; ``phones`` ``[B, P]`` and ``phone_lengths``.
        """
        waves, inputs, targets, phones = [], [], [], []
        for clip, samples in clips:
            prompt = self.text.prompt_in(clip.language)
            lead, tail = (int(rng.uniform(0, self.max_silence) * SAMPLE_RATE) for _ in range(2))
            samples = np.pad(samples, (lead, tail))
            samples = np.pad(samples, (0, -len(samples) % self.unit_samples))
            if rng.random() < self.perturbed:
                samples = perturb(samples, other(), rng)
            else:
                samples = samples + rng.standard_normal(len(samples)).astype(np.float32) * 1e-4
            waves.append(torch.from_numpy(samples.astype(np.float32)))
            row = [*prompt, *self.text.encode(clip.text)[:400], self.text.end]
            inputs.append(torch.tensor(row[:-1]))
            targets.append(torch.tensor([IGNORED] * (len(prompt) - 1) + row[len(prompt) :]))
            phones.append(torch.tensor(self.inventory.ids(clip.phones).ids, dtype=torch.long))
        return {
            "samples": pad_sequence(waves, batch_first=True),
            "lengths": torch.tensor([len(wave) for wave in waves]),
            "tokens": pad_sequence(inputs, batch_first=True, padding_value=self.text.end),
            "targets": pad_sequence(targets, batch_first=True, padding_value=IGNORED),
            "phones": pad_sequence(phones, batch_first=True),
            "phone_lengths": torch.tensor([len(row) for row in phones]),
        }


class TextSet(Dataset[dict[str, Tensor]]):
    """Item i is a whole batch: ``batch_seconds`` of clips of similar length out of a store."""

    def __init__(
        self, store: TextStore, repeats: Sequence[float], batches: int, batch_seconds: float, seed: int,
        make: TextBatches,
    ) -> None:  # fmt: skip
        self.store, self.seed, self.make = store, seed, make
        self.chosen: list[list[int]] = []
        lengths, epoch = [clip.length for clip in store.clips], 0
        while len(self.chosen) < batches:
            rng = np.random.default_rng([seed, epoch])
            share = np.asarray([repeats[source] for source in store.source])
            counts = np.floor(share + rng.random(len(share))).astype(int)
            order = rng.permutation(np.repeat(np.arange(len(share)), counts)).tolist()
            pools = [order[at : at + 1024] for at in range(0, len(order), 1024)]
            found = [batch for pool in pools for batch in alike(lengths, pool, batch_seconds) if batch]
            self.chosen += [found[index] for index in rng.permutation(len(found))]
            epoch += 1
        self.chosen = self.chosen[:batches]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 1, index])
        store = self.store
        clips = [(store.clips[at], store.samples(store.clips[at])) for at in self.chosen[index]]
        return self.make.batch(clips, lambda: store.samples(store.clips[int(rng.integers(len(store.clips)))]), rng)


Heard = tuple[TextClip, np.ndarray]


@dataclass(frozen=True)
class _Decoder:
    """Samples of converted sets to clips with words.

    Attributes:
        sources: of each shard, by the name of its file.
        said: a Whisper's words for each shard whose source is ``pseudo``, by ``name_of``.
    """

    sources: Mapping[str, TextSource]
    said: Mapping[str, Mapping[str, str]]
    max_seconds: float

    def __call__(self, raw: Raw) -> Heard:
        """Raises: BadSample: no words, no sound, or too long."""
        fields, source = raw.fields, self.sources[raw.shard]
        # A pseudo source may have transcripts too; they stay unread, or its labels would be worth nothing.
        if source.pseudo:
            text, missing = self.said[raw.shard].get(raw.id, ""), "no words heard in it (`emova train pseudo-labels`)"
        else:
            text, missing = str(fields.get("text") or ""), "no words (give transcripts, or pseudo: true)"
        if not text.strip():
            raise BadSample(missing)
        samples = decoded(raw, SAMPLE_RATE)
        if len(samples) > self.max_seconds * SAMPLE_RATE:
            raise BadSample(f"longer than {self.max_seconds:g} s")
        phones, family = tuple(fields.get("phones") or ()), str(fields.get("family") or "")
        return TextClip(raw.id, 0, 0, len(samples), text, phones, family, source.language), samples


def streamed(
    sources: Sequence[TextSource], labels: str, ratio: float, make: TextBatches, batch_seconds: float,
    max_seconds: float, config: StreamConfig,
) -> ClipStream[Heard]:  # fmt: skip
    """The training set of converted sets, read as they are needed.

    Raises:
        InputError: see ``find_sources``, or a shard has no labels.
    """
    sets = [each for each, _ in find_sources([(source.pattern, 1.0) for source in sources])]
    check_names(shard.path for each in sets for shard in each.shards)
    said: dict[str, dict[str, str]] = {}
    counts = []
    for source, whole in zip(sources, sets, strict=True):
        if source.pseudo:
            said |= {shard.path.name: read_labels(labels, shard.path) for shard in whole.shards}
            counts.append(sum(len(said[shard.path.name]) for shard in whole.shards))
            if not counts[-1]:
                raise InputError(f"{source.pattern}: in none of it were words heard; nothing to learn")
        else:
            counts.append(whole.records)
    # Of a pseudo source only what has words comes, so that the ratio holds among what is learnt.
    passes = balanced(sources, counts, ratio)
    found = find_sources([(each.pattern, times) for each, times in zip(sources, passes, strict=True)])
    owners = {shard.path.name: source for source, each in zip(sources, sets, strict=True) for shard in each.shards}

    def lay_out(pool: Sequence[Heard], rng: np.random.Generator) -> list[list[int]]:
        batches = alike([clip.length for clip, _ in pool], range(len(pool)), batch_seconds)
        return [batches[index] for index in rng.permutation(len(batches))]

    def together(group: Pooled[Heard]) -> dict[str, Tensor]:
        rng = np.random.default_rng(np.random.randint(2**31))
        return make.batch(group.items, lambda: group.pool[int(rng.integers(len(group.pool)))][1], rng)

    return ClipStream(found, _Decoder(owners, said, max_seconds), lay_out, together, config)
