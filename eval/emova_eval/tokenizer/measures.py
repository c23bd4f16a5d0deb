"""What is measured of a speech tokenizer, by its protocol alone: any kind of the registry gives the same lines.

Shapes: T samples, U units, D width of an encoder, N utterances, K clusters.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from emova.core.errors import InputError
from emova.core.levenshtein import edit_distance
from emova.speech.tokenizer.phones import MANDARIN, TONES
from emova.speech.tokenizer.protocol import ReadsPhones, SpeechTokenizer
from emova.speech.tokenizer.whisper_vq.reader import ReadsWords
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQTokenizer
from emova_eval.metrics.acoustics import measure
from emova_eval.metrics.text import character_errors, word_errors
from emova_eval.models.assistant import probe, unit_figures
from emova_eval.suite.codec import distance
from emova_eval.tokenizer.utterances import RATE, Utterance

STEP_MS = 20
MAX_CLUSTERS = 1024
LABELS = ("voice", "gender", "emotion")


@contextmanager
def listened(tokenizer: SpeechTokenizer) -> Iterator[list[Tensor]]:
    """What the tokenizer's ``encoder`` gives in the block, a tensor a call; nothing where it has none."""
    heard: list[Tensor] = []
    encoder = getattr(tokenizer, "encoder", None)
    if not isinstance(encoder, nn.Module):
        yield heard
        return

    def take(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 3:
            heard.append(output.detach().float().cpu())

    hook = encoder.register_forward_hook(take)
    try:
        yield heard
    finally:
        hook.remove()


class Heard:
    """The units of all utterances, with the encoder's vectors behind them and how long it took.

    Attributes:
        units: int64 ``[U]`` a row.
        vectors: float32 ``[U, D]`` a row, or none at all.
        seconds: of computing.
    """

    def __init__(self, tokenizer: SpeechTokenizer, utterances: Sequence[Utterance]) -> None:
        self.units: list[np.ndarray] = []
        self.vectors: list[np.ndarray] = []
        self.seconds = 0.0
        for each in utterances:
            samples = torch.from_numpy(at_rate(each.samples, tokenizer.sample_rate))[None].to(tokenizer.device)
            with listened(tokenizer) as given:
                started = time.perf_counter()
                (units,) = tokenizer.encode(samples)
                self.seconds += time.perf_counter() - started
            self.units.append(units.cpu().numpy())
            if given and given[-1].shape[1] >= len(units):
                self.vectors.append(given[-1][0, : len(units)].numpy())
        if len(self.vectors) != len(self.units):
            self.vectors = []


def at_rate(samples: np.ndarray, rate: int) -> np.ndarray:
    """``[T]`` at 16 kHz as ``[T']`` at ``rate``."""
    import soxr

    return samples if rate == RATE else np.asarray(soxr.resample(samples, RATE, rate), np.float32)


def cost(tokenizer: SpeechTokenizer, heard: Heard, utterances: Sequence[Utterance]) -> dict[str, float]:
    """Bits a second, how evenly the codebook is used, compute time over audio time."""
    figures = unit_figures([row.tolist() for row in heard.units], tokenizer.codebook_size, tokenizer.unit_rate)
    figures["rtf"] = heard.seconds / sum(each.seconds for each in utterances)
    return figures


def use_by_language(heard: Heard, utterances: Sequence[Utterance]) -> dict[str, float]:
    """Per cent of the units that came in any language which came in each, and in both of two."""
    used: dict[str, set[int]] = {}
    for units, each in zip(heard.units, utterances, strict=True):
        used.setdefault(each.language, set()).update(units.tolist())
    whole = set().union(*used.values())
    figures = {f"used/{language}": 100 * len(found) / len(whole) for language, found in sorted(used.items())}
    if len(used) > 1:
        figures["used/shared"] = 100 * len(set.intersection(*used.values())) / len(whole)
    return figures


def toneless(phone: str) -> str:
    """A Mandarin final without its tone; any other phone as it is."""
    return phone[:-1] if phone.startswith(MANDARIN) and phone[-1] in TONES else phone


def tones(phones: Sequence[str]) -> list[str]:
    """The tones of a phone sequence, in order."""
    return [phone[-1] for phone in phones if phone.startswith(MANDARIN) and phone[-1] in TONES]


def phone_errors(tokenizer: SpeechTokenizer, heard: Heard, utterances: Sequence[Utterance]) -> dict[str, float]:
    """Per cent of phones that the tokenizer's own decoder reads wrongly in its units, by language, without tones; and
    of Mandarin's tones. Nothing where it has no decoder or the phones are unknown."""
    if not isinstance(tokenizer, ReadsPhones):
        return {}
    wrong: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for units, each in zip(heard.units, utterances, strict=True):
        if not each.phones or not len(units):
            continue
        try:
            (said,) = tokenizer.phones([torch.from_numpy(units).to(tokenizer.device)])
        except InputError:  # a kind that can have a phone decoder, without one
            return {}
        name = f"phone_error/{each.language}"
        wanted = [_SAME.get(phone, toneless(phone)) for phone in each.phones]
        wrong[name] += edit_distance(wanted, [toneless(phone) for phone in said])
        total[name] += len(wanted)
        if right := tones(each.phones):
            wrong["tone_error/zh"] += edit_distance(right, tones(said))
            total["tone_error/zh"] += len(right)
    return {name: 100 * wrong[name] / total[name] for name in sorted(total)}


_SAME = {"g": "ɡ", "r": "ɹ"}


def read_errors(
    tokenizer: SpeechTokenizer, folder: Path, heard: Heard, utterances: Sequence[Utterance]
) -> dict[str, float]:
    """Per cent of words (Mandarin's characters) that the reader in the tokenizer's folder reads wrongly in its units,
    by language: the recognition of GLM-4-Voice's Table 1. Nothing where it has no reader or the words are unknown.

    Raises:
        InputError: the reader is damaged.
    """
    reader = ReadsWords.from_tokenizer(folder) if isinstance(tokenizer, WhisperVQTokenizer) else None
    if reader is None or not isinstance(tokenizer, WhisperVQTokenizer):
        return {}
    wrong: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for units, each in zip(heard.units, utterances, strict=True):
        if not each.sentence or each.language not in reader.languages:
            continue
        said = reader(tokenizer, torch.from_numpy(units).to(tokenizer.device), each.language)
        found = (character_errors if each.language == "zh" else word_errors)(each.sentence, said)
        wrong[each.language] += found.edits
        total[each.language] += found.reference_tokens
    return {f"word_error/{language}": 100 * wrong[language] / max(1, count) for language, count in total.items()}


def lookup_error(heard: Heard, utterances: Sequence[Utterance], unit_rate: float) -> float:
    """Per cent of units whose phone, at their middle, is not the one that this unit mostly had in the other half of the
    sentences: what a unit says by itself, for tokenizers with no phone decoder too. NaN without alignments."""
    halves: tuple[list[tuple[int, str]], ...] = ([], [])
    names = sorted({each.sentence for each in utterances if each.alignment})
    half_of = {name: place % 2 for place, name in enumerate(names)}
    for units, each in zip(heard.units, utterances, strict=True):
        for phone, start, end in each.alignment:
            first, last = (int(np.ceil(moment * unit_rate - 0.5)) for moment in (start, end))
            rows = halves[half_of[each.sentence]]
            rows += [(int(units[at]), toneless(phone)) for at in range(max(0, first), min(last, len(units)))]
    if not all(halves):
        return float("nan")
    wrong = count = 0
    for own, other in (halves, halves[::-1]):
        seen: dict[int, Counter[str]] = {}
        for unit, phone in other:
            seen.setdefault(unit, Counter())[phone] += 1
        wrong += sum(unit not in seen or seen[unit].most_common(1)[0][0] != phone for unit, phone in own)
        count += len(own)
    return 100 * wrong / count


def clustered(vectors: Sequence[np.ndarray], codebook_size: int, seed: int = 0) -> tuple[list[np.ndarray], int]:
    """The encoder's vectors as k-means units: what the same encoder gives without its own quantiser. And how many."""
    from sklearn.cluster import MiniBatchKMeans

    points = np.concatenate(vectors)
    count = max(2, min(codebook_size, MAX_CLUSTERS, len(points) // 4))
    model = MiniBatchKMeans(count, batch_size=4096, n_init=1, max_iter=20, random_state=seed).fit(points)
    return [model.predict(row).astype(np.int64) for row in vectors], count


def raw_features(utterances: Sequence[Utterance]) -> np.ndarray:
    """Mean and spread of each recording's log-mel frames, ``[N, 2 M]``: what is there to leak."""
    from emova.speech.features import LogMel, MelConfig

    mel = LogMel(MelConfig())
    rows = []
    for each in utterances:
        frames = mel(torch.from_numpy(each.samples)[None])[0].numpy()
        rows.append(np.concatenate([frames.mean(1), frames.std(1)]))
    features = np.stack(rows)
    return (features - features.mean(0)) / (features.std(0) + 1e-6)


def histogram(sequences: Sequence[np.ndarray], codebook_size: int) -> np.ndarray:
    """Square roots of the shares of the units, ``[N, codebook_size]``."""
    counts = np.stack([np.bincount(row, minlength=codebook_size) for row in sequences]).astype(float)
    return np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))


def leaks(
    utterances: Sequence[Utterance], features_ND: np.ndarray | None, sequences: Sequence[np.ndarray] = (), size: int = 0
) -> dict[str, float]:
    """How well linear probes tell voice, gender, emotion (per cent right, ``chance/NAME`` beside it: always the
    commonest) and pitch (per cent of the variance of log F0 explained), with sentences held out.

    Args:
        features_ND: what the probe sees; None: the histograms of ``sequences`` of ``size`` units.
    """
    figures: dict[str, float] = {}
    shown = histogram(sequences, size) if features_ND is None else features_ND
    for name in LABELS:
        rows = [at for at, each in enumerate(utterances) if getattr(each, name)]
        labels = [getattr(utterances[at], name) for at in rows]
        groups = [utterances[at].sentence for at in rows]
        # A label that a sentence gives away is no leak: only where the same sentence has several is it asked for.
        several = {group for group in groups if len({x for x, g in zip(labels, groups, strict=True) if g == group}) > 1}
        rows = [at for at, group in zip(rows, groups, strict=True) if group in several]
        labels = [getattr(utterances[at], name) for at in rows]
        groups = [utterances[at].sentence for at in rows]
        if len(set(labels)) < 2 or len(set(groups)) < 2:
            continue
        figures[f"leak/{name}"], figures[f"chance/{name}"] = probe(shown[rows], labels, groups)
    pitch = np.array([measure(each.samples).f0_median for each in utterances])
    voiced = np.flatnonzero(pitch > 0).tolist()
    groups = [utterances[at].sentence for at in voiced]
    if len(set(groups)) > 2 and len(voiced) >= 10 and np.ptp(pitch[voiced]) > 0:  # one pitch alone tells nothing
        figures["leak/pitch"] = _explained(shown[voiced], np.log(pitch[voiced]), groups)
    return figures


def _explained(features_ND: np.ndarray, wanted_N: np.ndarray, groups: Sequence[str]) -> float:
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold

    made_N = np.zeros_like(wanted_N)
    for train, test in GroupKFold(min(5, len(set(groups)))).split(features_ND, wanted_N, groups):
        made_N[test] = (
            RidgeCV(alphas=np.logspace(-3, 3, 7)).fit(features_ND[train], wanted_N[train]).predict(features_ND[test])
        )
    error = float(np.mean(np.square(made_N - wanted_N)))
    return 100 * max(0.0, 1 - error / float(np.var(wanted_N)))


def changes(utterances: Sequence[Utterance], sequences: Sequence[np.ndarray]) -> dict[str, float]:
    """Per cent of the units that change (edit distance over the longer length) when the same sentence comes in another
    voice and emotion alike, in another emotion by the same voice, or when the same voice says another sentence."""
    found: dict[str, list[float]] = {"voice": [], "emotion": [], "sentence": []}
    by_sentence: dict[str, list[int]] = {}
    by_voice: dict[tuple[str, str], list[int]] = {}
    for at, each in enumerate(utterances):
        if each.voice:
            by_sentence.setdefault(each.sentence, []).append(at)
            by_voice.setdefault((each.voice, each.emotion), []).append(at)
    for rows in by_sentence.values():
        for place, a in enumerate(rows):
            for b in rows[place + 1 :]:
                one, other = utterances[a], utterances[b]
                same = (one.voice == other.voice, one.emotion == other.emotion)
                kind = {(False, True): "voice", (True, False): "emotion"}.get(same)
                if kind:
                    found[kind].append(distance(sequences[a], sequences[b]))
    for rows in by_voice.values():
        found["sentence"] += [distance(sequences[a], sequences[b]) for a, b in zip(rows, rows[1:], strict=False)]
    return {f"change/{name}": 100 * float(np.mean(values)) for name, values in found.items() if values}


def look_ahead(tokenizer: SpeechTokenizer, samples: np.ndarray) -> tuple[float, float]:
    """How long after its own end a unit comes out of a stream that gets 20 ms at a time, in ms: median and longest.

    Units that come with the end of the recording are not counted, where any came before.
    """
    rate = tokenizer.sample_rate
    samples = at_rate(samples, rate)
    step, waits, given = rate * STEP_MS // 1000, [], 0
    with tokenizer.streaming(1) as stream:
        for start in range(0, len(samples), step):
            new = stream.step(torch.from_numpy(samples[None, start : start + step]).to(tokenizer.device)).shape[1]
            now = min(start + step, len(samples)) / rate
            waits += [1000 * (now - (given + at + 1) / tokenizer.unit_rate) for at in range(new)]
            given += new
        late = stream.finish().shape[1]
    if not waits:
        waits = [1000 * (len(samples) / rate - (given + at + 1) / tokenizer.unit_rate) for at in range(late)]
    return (float(np.median(waits)), float(np.max(waits))) if waits else (float("nan"), float("nan"))


def by_method(
    tokenizer: SpeechTokenizer, heard: Heard, utterances: Sequence[Utterance], advance: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Leakage and changed units of the tokenizer's units, of k-means units of its encoder, and of raw features."""
    methods = {}
    advance("probes on units")
    size = tokenizer.codebook_size
    methods["units"] = leaks(utterances, None, heard.units, size) | changes(utterances, heard.units)
    if heard.vectors:
        advance("probes on k-means units of the encoder")
        others, count = clustered(heard.vectors, size)
        methods[f"k-means {count} of the encoder"] = leaks(utterances, None, others, count) | changes(
            utterances, others
        )
    advance("probes on raw features")
    methods["raw log-mel"] = leaks(utterances, raw_features(utterances))
    return methods
