"""Speech for the S2U: shards decoded once into a cache of 16 kHz waveforms, batches of similar length, two views.

Batch number i is a function of the seed and i alone, so a resumed run sees what an uninterrupted one would.

Shapes: B clips, T samples, L phones of a transcript, N frame labels (50 a second).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from rich.progress import track
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import istft, stft
from torch import Tensor
from torch.utils.data import Dataset

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova.speech.tokenizer.phones import BLANK, DEFAULT_PHONES, PhoneInventory, describe_unknown
from emova.speech.tokenizer.s2u import S2UTokenizer
from emova_data.records.recordings import Recording
from emova_train.data.shard_cache import SAMPLE_RATE, decode_shard, found_shards
from emova_train.s2u.alignment import align
from emova_train.s2u.screening import holds_speech, is_narrow

UNIT_SAMPLES = 640
LABEL_SAMPLES = 320  # two frame labels a unit
IGNORED = -100
ROOM_SAMPLES = 8000  # of an impulse response
MIN_SECONDS = 0.5  # of a recording that is learnt from without its words
MAX_FORMANT_SHIFT = 0.2  # an unseen speaker's formants lie exp(+-this) times as high


@dataclass(frozen=True)
class SourceConfig:
    """Shards by a glob pattern; each clip counts ``repeat`` times an epoch."""

    pattern: str = ""
    repeat: float = 1.0


@dataclass(frozen=True)
class Clip:
    """One utterance in the cache; ``alignment`` rows are (phone, first sample, end)."""

    key: str
    shard: int
    start: int
    length: int  # samples
    phones: tuple[int, ...]
    alignment: tuple[tuple[int, int, int], ...] | None
    family: str
    voice: str


def clip_of(
    inventory: PhoneInventory, max_seconds: float, phones: Sequence[str] | None,
    alignment: Sequence[Sequence[Any]] | None, labelled: bool = True, **where: Any,
) -> tuple[Clip | None, Counter[str]]:  # fmt: skip
    """A clip with its phones by number, None where nothing can be learnt of it, and the phones that are unknown.

    Args:
        alignment: rows of (phone, first sample, end); silence is the blank.
        labelled: the phones are what is learnt; else the sound alone is, and they are left out.
        where: the clip's other fields.
    """
    if not labelled:
        clip = Clip(phones=(), alignment=None, **where)
        return (clip if MIN_SECONDS <= clip.length / SAMPLE_RATE <= max_seconds else None), Counter()
    assert phones is not None

    def label(phone: str) -> int:
        ids, unknown = inventory.ids([phone])
        return ids[0] if ids else IGNORED if unknown else BLANK

    ids, unknown = inventory.ids(phones)
    rows = tuple((label(phone), start, end) for phone, start, end in alignment) if alignment is not None else None
    clip = Clip(phones=tuple(ids), alignment=rows, **where)
    # CTC needs a label for each phone, and one more between equal neighbours.
    room = clip.length // LABEL_SAMPLES > len(clip.phones) * 1.1
    return (clip if clip.phones and room and clip.length <= max_seconds * SAMPLE_RATE else None), unknown


def _heard_fields(recording: Recording) -> dict[str, object]:
    """What the index says of a recording. It names the phones, so that it serves every inventory."""
    meta = recording.record
    alignment = meta.get("alignment")
    return {
        "phones": list(meta["phones"]) if "phones" in meta else None,
        "alignment": alignment and [
            (phone, round(a * SAMPLE_RATE), round(b * SAMPLE_RATE)) for phone, a, b in alignment
        ],
        "family": meta.get("family") or "", "voice": meta.get("voice") or "",
        "speech": holds_speech(recording.samples), "narrow": is_narrow(recording.samples),
    }  # fmt: skip


def decode_heard(path: str, folder: Path) -> Path:
    """Decode a shard into ``folder`` unless that is done already; gives the index file."""
    return decode_shard(path, folder, "heard", _heard_fields)


class ClipStore:
    """All clips of some shards, decoded once, in memory-mapped int16.

    Args:
        labelled: whether the phones are learnt; without them, clips that have none serve too.

    Attributes:
        unknown: phones that the inventory lacks, and how often they came; they teach nothing.
        left_out: why clips are, and how many.
        narrow: clips that hold nothing above 4 kHz, as a telephone's.
        speechless: clips that have phones and do not sound like speech; they stay.

    Raises:
        InputError: a pattern matches no shard, its clips have no phones that are to be learnt, or all are left out.
    """

    def __init__(
        self,
        patterns: Sequence[str],
        cache: str | Path,
        max_seconds: float = 20.0,
        inventory: PhoneInventory = DEFAULT_PHONES,
        labelled: bool = True,
    ) -> None:
        self.inventory = inventory
        self.unknown: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self.narrow = self.speechless = 0
        folder = Path(cache)
        folder.mkdir(parents=True, exist_ok=True)
        self.waves: list[np.ndarray] = []
        self.clips: list[Clip] = []
        self.source: list[int] = []  # which pattern a clip came from
        for number, pattern in enumerate(patterns):
            for path in found_shards(pattern):
                index_path = decode_heard(path, folder)
                shard = len(self.waves)
                self.waves.append(np.load(index_path.with_suffix(".npy"), mmap_mode="r"))
                for entry in json.loads(index_path.read_text(encoding="utf-8")):
                    if labelled and entry["phones"] is None:
                        raise InputError(
                            f"{path}: its recordings have no phones; convert them with transcripts and --g2p"
                        )
                    speech, narrow = entry.pop("speech"), entry.pop("narrow")
                    clip, unknown = clip_of(inventory, max_seconds, labelled=labelled, shard=shard, **entry)
                    self.unknown += unknown
                    if clip is None and labelled and not inventory.ids(entry["phones"]).ids:
                        self.left_out["none of its phones is in the inventory"] += 1
                    elif clip is None:
                        self.left_out["too long, or too short for what it holds"] += 1
                    elif not speech and not labelled:
                        self.left_out["no speech in it"] += 1
                    else:
                        self.speechless += not speech
                        self.narrow += narrow
                        self.clips.append(clip)
                        self.source.append(number)
        if labelled and patterns and not self.clips:  # batches would be looked for without end
            why = ", ".join(self.left_out) or "none is there"
            raise InputError(f"{', '.join(patterns)}: no recording can be learnt from ({why}); give others")

    def limit(self, minutes: float, seed: int) -> None:
        """Keep so many minutes of the clips, drawn by ``seed``: what is kept of fewer minutes is kept of more.

        Raises:
            InputError: there is less, or so little is asked for that no clip stays.
        """
        order = np.random.default_rng([seed, 2]).permutation(len(self.clips))
        seconds = np.cumsum([self.clips[at].length / SAMPLE_RATE for at in order])
        count = int(np.searchsorted(seconds, 60 * minutes, side="right"))
        if not count or (count == len(order) and seconds[-1] < 54 * minutes):
            raise InputError(f"minutes={minutes:g}: there are {seconds[-1] / 60 if len(seconds) else 0:.1f}; give less")
        kept = sorted(order[:count].tolist())
        self.clips, self.source = [self.clips[at] for at in kept], [self.source[at] for at in kept]

    def told(self) -> list[str]:
        """A line about each thing that whoever gave the recordings should know."""
        lines = [f"left out {count}: {reason}" for reason, count in self.left_out.most_common()]
        if self.speechless:
            lines.append(f"{self.speechless} of {len(self.clips)} have phones and do not sound like speech: check them")
        if self.narrow:
            lines.append(f"{self.narrow} of {len(self.clips)} hold nothing above 4 kHz, as over a telephone")
        if missing := describe_unknown(self.unknown):
            lines.append(missing)
        return lines

    @torch.inference_mode()
    def align(self, model: S2UTokenizer, folder: Path) -> None:
        """Give each clip without times those that ``model`` finds; they are kept in ``folder`` for the next run.

        Raises:
            InputError: the model tells other phones apart.
        """
        if model.inventory != self.inventory:
            raise InputError("the aligner tells other phones apart than model.phones; take one of the same inventory")
        digest = hashlib.sha256(" ".join(self.inventory.phones).encode()).hexdigest()[:8]
        path = folder / ("alignments.json" if self.inventory == DEFAULT_PHONES else f"alignments-{digest}.json")
        known: dict[str, list[list[int]]] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        unknown = [clip for clip in self.clips if clip.alignment is None and clip.key not in known]
        for clip in track(unknown, description="aligning", disable=not unknown):
            units_U = model.encode(torch.from_numpy(self.samples(clip))[None])[0]
            logits = model.phone_decoder(model.quantizer.codes(units_U[None]), torch.tensor([len(units_U)]))
            rows = align(logits.frame[0].float().log_softmax(-1).numpy(), clip.phones)
            known[clip.key] = [[phone, first * LABEL_SAMPLES, end * LABEL_SAMPLES] for phone, first, end in rows]
        if unknown:
            write_text(path, json.dumps(known))
        self.clips = [
            clip
            if clip.alignment is not None
            else replace(clip, alignment=tuple((phone, start, end) for phone, start, end in known[clip.key]))
            for clip in self.clips
        ]

    def samples(self, clip: Clip) -> np.ndarray:
        """``[T]`` float32 in [-1, 1]."""
        return self.waves[clip.shard][clip.start : clip.start + clip.length].astype(np.float32) / 32768.0


def frame_labels(clip: Clip, lead: int, total: int) -> np.ndarray:
    """The phone at the centre of each 20 ms of ``lead`` samples of silence, the clip, silence: ``[N]`` int64."""
    count = total // LABEL_SAMPLES
    if clip.alignment is None:
        return np.full(count, IGNORED, dtype=np.int64)
    labels = np.full(count, BLANK, dtype=np.int64)
    for phone, start, end in clip.alignment:
        first = -(-(lead + start - LABEL_SAMPLES // 2) // LABEL_SAMPLES)
        labels[max(0, first) : max(0, -(-(lead + end - LABEL_SAMPLES // 2) // LABEL_SAMPLES))] = phone
    return labels


def faster(samples: np.ndarray, factor: float) -> np.ndarray:
    """``samples`` played ``factor`` times as fast, so higher too and as from a shorter vocal tract."""
    return soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE)


def faster_clip(clip: Clip, samples: np.ndarray, factor: float) -> tuple[Clip, np.ndarray]:
    """``faster``, and the times of the clip's phones follow."""
    samples = faster(samples, factor)
    rows = clip.alignment and tuple((phone, round(a / factor), round(b / factor)) for phone, a, b in clip.alignment)
    return replace(clip, alignment=rows, length=len(samples)), samples


def warp_formants(samples: np.ndarray, factor: float) -> np.ndarray:
    """The same speech from a vocal tract whose formants lie ``factor`` times as high; its pitch and times stay.

    The smooth part of each frame's spectrum (its cepstrum below 2 ms) is stretched along the frequencies.
    """
    _, _, spectrum_KF = stft(samples, nperseg=512, noverlap=384)
    level_KF = np.log(np.abs(spectrum_KF) + 1e-6)
    cepstrum_QF = irfft(level_KF, axis=0)
    cepstrum_QF[32:-31] = 0
    smooth_KF = rfft(cepstrum_QF, axis=0).real
    bins = np.arange(len(smooth_KF))
    below, share = np.divmod(np.minimum(bins / factor, bins[-1] - 1e-3), 1)
    below, share_K1 = below.astype(int), share[:, None].astype(np.float32)
    moved_KF = smooth_KF[below] * (1 - share_K1) + smooth_KF[below + 1] * share_K1
    _, changed = istft(spectrum_KF * np.exp((moved_KF - smooth_KF).clip(-3, 3)), nperseg=512, noverlap=384)
    return changed[: len(samples)].astype(np.float32)


def other_vocal_tract(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``warp_formants`` of a factor that is drawn."""
    return warp_formants(samples, np.exp(rng.uniform(-MAX_FORMANT_SHIFT, MAX_FORMANT_SHIFT)))


def perturb(samples: np.ndarray, babble: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same speech through a room, a microphone's response and noise; its time axis stays.

    ``babble`` is other speech, one of the kinds of noise. All is float32: a batch of training waits for this.
    """
    size = next_fast_len(len(samples) + ROOM_SAMPLES, real=True)
    spectrum = rfft(samples.astype(np.float32, copy=False), size)
    frequencies = np.arange(size // 2 + 1, dtype=np.float32) * (SAMPLE_RATE / size)
    if rng.random() < 0.4:  # a room: decaying noise after the direct sound
        decay = np.exp(np.arange(ROOM_SAMPLES, dtype=np.float32) * (-6.9 / SAMPLE_RATE / rng.uniform(0.05, 0.35)))
        room = rng.standard_normal(ROOM_SAMPLES, dtype=np.float32) * decay * np.float32(rng.uniform(0.01, 0.08))
        room[0] = 1.0
        spectrum *= rfft(room, size)
    if rng.random() < 0.6:  # a smooth response, up to +-8 dB at some points of a logarithmic frequency axis
        points = np.log(np.geomspace(60, 8000, 7))
        gains = np.interp(np.log(frequencies + 1), points, rng.normal(0, 4, 7)).astype(np.float32)
        spectrum *= 10 ** (gains / 20)
    if rng.random() < 0.3:  # a band limit
        high, low = rng.uniform(3000, 7500), rng.uniform(50, 350)
        spectrum /= np.sqrt((1 + (frequencies / high) ** 12) * (1 + (low / (frequencies + 1)) ** 6))
    out = irfft(spectrum, size)[: len(samples)]
    level = np.sqrt(np.mean(np.square(out)) + 1e-9)
    if rng.random() < 0.7:
        if rng.random() < 0.25:
            noise = np.resize(babble, len(out))
        else:  # coloured noise: power falls by a random slope
            white = rfft(rng.standard_normal(size, dtype=np.float32))
            noise = irfft(white * (frequencies + 30) ** np.float32(-rng.uniform(0, 1.2)), size)[: len(out)]
        noise = noise / np.sqrt(np.mean(np.square(noise)) + 1e-9)
        out = out + noise * (level * np.float32(10 ** (-rng.uniform(5, 35) / 20)))
    return (out * np.float32(10 ** (rng.uniform(-38, -14) / 20) / level)).clip(-1, 1)


@dataclass(frozen=True)
class Views:
    """How clips become a batch, each clean and perturbed.

    ``samples`` ``[2B, T]`` holds the clean views, then the perturbed ones; ``lengths`` likewise, in samples. ``phones``
    ``[B, L]``, ``phone_lengths``, and frame ``labels`` ``[B, N]`` (``IGNORED`` where unknown) are the same for both.
    ``start`` ``[2B]``: position of the first frame; ``warp`` ``[B]``: vocal tract factor of the perturbed view;
    ``anchored`` ``[B]``: whether the clip is of one of the ``anchored`` families.

    Attributes:
        max_silence: seconds before and after a clip.
        max_start: first frames lie up to here: half the clips begin a recording, the others lie anywhere in a long one.
        max_speed: both views are played up to exp(+-this) times as fast (Ko et al. 2015), so that few voices are many.
        rough: makes the second view of samples, other speech and a generator.
        heard_only: a batch has no more than ``samples``, ``lengths``, ``start`` and ``warp``: nothing of the words.
    """

    max_silence: float = 0.4
    max_start: int = 3000
    max_warp: float = 0.15
    max_speed: float = 0.0
    anchored: Sequence[str] = ()
    rough: Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray] = perturb
    heard_only: bool = False

    def batch(
        self, clips: Sequence[tuple[Clip, np.ndarray]], other: Callable[[], np.ndarray], rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """The batch of ``clips`` with their samples; ``other`` draws other speech by ``rng``, a kind of noise."""
        clean, rough, labels, phones, anchored = [], [], [], [], []
        for clip, samples in clips:
            if self.max_speed > 0:
                clip, samples = faster_clip(clip, samples, float(np.exp(rng.uniform(-1, 1) * self.max_speed)))
            lead, tail = (int(rng.uniform(0, self.max_silence) * SAMPLE_RATE) for _ in range(2))
            samples = np.pad(samples, (lead, tail))
            samples = np.pad(samples, (0, -len(samples) % UNIT_SAMPLES))
            babble = other()
            clean.append(torch.from_numpy(samples + rng.standard_normal(len(samples)).astype(np.float32) * 1e-4))
            rough.append(torch.from_numpy(self.rough(samples, babble, rng)))
            labels.append(torch.from_numpy(frame_labels(clip, lead, len(samples))))
            phones.append(torch.tensor(clip.phones, dtype=torch.long))
            anchored.append(clip.family in self.anchored)
        stack = torch.nn.utils.rnn.pad_sequence
        starts = rng.integers(0, self.max_start, 2 * len(clean)) * (rng.random(2 * len(clean)) < 0.5)
        batch = {
            "samples": stack(clean + rough, batch_first=True),
            "lengths": torch.tensor([len(row) for row in clean] * 2),
            "start": torch.from_numpy(starts),
            "warp": torch.from_numpy(np.exp(rng.uniform(-1, 1, len(clean)) * self.max_warp).astype(np.float32)),
        }
        if self.heard_only:
            return batch
        return batch | {
            "phones": stack(phones, batch_first=True),
            "phone_lengths": torch.tensor([len(row) for row in phones]),
            "labels": stack(labels, batch_first=True, padding_value=IGNORED),
            "anchored": torch.tensor(anchored),
        }


def alike(lengths: Sequence[int], pool: Sequence[int], seconds: float) -> list[list[int]]:
    """The clips of ``pool`` (places in ``lengths``, in samples) by length, cut into batches of at most ``seconds``."""
    batches: list[list[int]] = []
    current: list[int] = []
    for clip in sorted(pool, key=lambda clip: lengths[clip]):
        if current and (len(current) + 1) * lengths[clip] > seconds * SAMPLE_RATE:
            batches.append(current)
            current = []
        current.append(clip)
    return [*batches, current]


class TwoViews(Dataset):
    """Item i is a whole batch (``Views.batch``): ``batch_seconds`` of clips of similar length out of a store."""

    def __init__(
        self, store: ClipStore, repeats: Sequence[float], batches: int, batch_seconds: float, seed: int,
        views: Views = Views(),
    ) -> None:  # fmt: skip
        self.store, self.seed, self.views = store, seed, views
        self.clip_lengths = [clip.length for clip in store.clips]
        self.chosen: list[list[int]] = []
        epoch = 0
        while len(self.chosen) < batches:
            self.chosen += self._epoch(repeats, batch_seconds, np.random.default_rng([seed, epoch]))
            epoch += 1
        self.chosen = self.chosen[:batches]

    def _epoch(self, repeats: Sequence[float], seconds: float, rng: np.random.Generator) -> list[list[int]]:
        share = np.asarray([repeats[source] for source in self.store.source])
        counts = np.floor(share + rng.random(len(share))).astype(int)
        order = rng.permutation(np.repeat(np.arange(len(share)), counts)).tolist()
        # Similar lengths within a pool, pools and batches in random order.
        pools = [order[at : at + 1024] for at in range(0, len(order), 1024)]
        batches = [batch for pool in pools for batch in alike(self.clip_lengths, pool, seconds)]
        return [batches[index] for index in rng.permutation(len(batches))]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 1, index])
        clips = [(clip, self.store.samples(clip)) for clip in (self.store.clips[at] for at in self.chosen[index])]

        def other() -> np.ndarray:
            return self.store.samples(self.store.clips[int(rng.integers(len(self.store.clips)))])

        return self.views.batch(clips, other, rng)


def unwrap(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The collate function of ``TwoViews``: an item is a batch already."""
    assert len(items) == 1, "TwoViews gives whole batches; use batch_size 1"
    return items[0]
