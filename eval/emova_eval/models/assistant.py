"""A model as the evaluation sees it; emova's own assistant in that form.

U: units, L: tokens, V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from emova.core.errors import InputError
from emova.core.tokens import BEGIN_OF_TEXT, SPEECH_END, SPEECH_START, unit_token
from emova.speech.style import Style
from emova_eval.suite.samples import Output

if TYPE_CHECKING:
    from emova.assistant import Assistant, Speech


class SpeechCodec(Protocol):
    """Speech to units and units to speech: what the codec's tasks ask, of a whole model or of a pair of parts."""

    name: str

    def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]: ...

    def render(self, units: Sequence[int], style: Style) -> Output: ...

    def resynthesize(self, audio: str, style: Style) -> Output: ...


class EvalModel(SpeechCodec, Protocol):
    """What a model must do to be evaluated; a task asks only for what it needs."""

    def reply(self, audio: str = "", images: Sequence[str] = (), text: str = "") -> Output: ...

    def answer_text(self, images: Sequence[str], text: str, audio: str = "") -> Output: ...

    def transcribe(self, audio: str) -> Output: ...

    def speak(self, text: str, voice: str = "female") -> Output: ...

    def phones(self, audio: str) -> list[str]: ...

    def log_likelihood(self, context_units: Sequence[int], units: Sequence[int] = (), text: str = "") -> float: ...


class AssistantModel:
    """``emova.Assistant``, loaded when the first question comes."""

    def __init__(self, name: str = "emova-nano") -> None:
        self.name = name

    @cached_property
    def assistant(self) -> Assistant:
        from emova.assistant import Assistant

        return Assistant.from_pretrained(self.name)

    def reply(self, audio: str = "", images: Sequence[str] = (), text: str = "") -> Output:
        """A spoken reply (chain of modality) to speech or text. Raises: ValueError: more than one picture."""
        if len(images) > 1:
            raise ValueError("a spoken question can show one picture")
        found = self.assistant.chat(audio=audio or None, image=images[0] if images else None, text=text or None)
        return Output(
            text=found.text,
            transcript=found.transcript,
            emotion=found.emotion,
            pitch=found.pitch,
            units=tuple(found.units),
            audio=found.audio,
            sample_rate=found.sample_rate,
            form_ok=bool(found.text and found.units) and found.style_understood,
        )

    def answer_text(self, images: Sequence[str], text: str, audio: str = "") -> Output:
        """A written answer, without the reply's form."""
        from emova.vision.image import load_image

        content: list[dict[str, object]] = [{"type": "image", "image": load_image(image)} for image in images]
        if audio:
            content.append({"type": "audio", "units": self.assistant.listen(audio)})
        if text:
            content.append({"type": "text", "text": text})
        return Output(text=self.assistant.answer_text([{"role": "user", "content": content}]))

    def transcribe(self, audio: str) -> Output:
        """What is said."""
        return Output(text=self.assistant.transcribe(audio))

    def speak(self, text: str, voice: str = "female") -> Output:
        """``text`` read aloud in the neutral style."""
        return _spoken(self.assistant.speak(text, self.assistant.styles.plain(voice)), text)

    def tokenize(self, audio: str | np.ndarray) -> tuple[int, ...]:
        """The units [U] of a file, or of samples [T] at 16 kHz."""
        return tuple(self.assistant.tokenize(audio))

    def phones(self, audio: str) -> list[str]:
        """What the tokenizer's phone decoder reads from the units of a file. Raises: ValueError: it has none."""
        import torch

        from emova.speech.audio import load_audio
        from emova.speech.tokenizer.protocol import ReadsPhones

        tokenizer = self.assistant.speech_tokenizer
        if not isinstance(tokenizer, ReadsPhones):
            raise ValueError("the speech tokenizer has no phone decoder")
        samples = torch.from_numpy(load_audio(audio, tokenizer.sample_rate))[None]
        return list(tokenizer.phones(tokenizer.encode(samples))[0])

    def render(self, units: Sequence[int], style: Style) -> Output:
        """Units [U] spoken in a style."""
        return _spoken(self.assistant.render(units, style))

    def resynthesize(self, audio: str, style: Style) -> Output:
        """A recording said again in a style."""
        return _spoken(self.assistant.resynthesize(audio, style))

    def log_likelihood(self, context_units: Sequence[int], units: Sequence[int] = (), text: str = "") -> float:
        """Mean log-probability a token of a continuation, spoken (``units``) or written (``text``), after a context.

        The sequence is plain, without turns: start of text, start of speech, context, and then the units, or the end
        of speech and the text. Of two continuations the one with the higher mean is the model's choice.
        """
        import torch

        tokenizer = self.assistant.parts.processor.tokenizer

        def id_of(token: str) -> int:
            return int(tokenizer.convert_tokens_to_ids(token))

        prefix = [id_of(BEGIN_OF_TEXT), id_of(SPEECH_START)]
        prefix += [id_of(unit_token(unit)) for unit in context_units]
        if text:
            prefix.append(id_of(SPEECH_END))
            scored = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        else:
            scored = [id_of(unit_token(unit)) for unit in units]
        if not scored:
            raise ValueError("nothing to score")
        ids_L = torch.tensor(prefix + scored)
        with torch.inference_mode():
            logits_LV = self.assistant.parts.model(input_ids=ids_L[None]).logits[0].float()
        chosen = torch.log_softmax(logits_LV[len(prefix) - 1 : -1], -1).gather(1, ids_L[len(prefix) :, None])
        return float(chosen.mean())


def completed(model: Path, parts: Path, folder: Path) -> Path:
    """``model`` with the parts that it lacks, as a folder of links: an export has no speech tokenizer and voice."""
    for source in (parts, model):
        for entry in source.iterdir():
            link = folder / entry.name
            link.unlink(missing_ok=True)
            link.symlink_to(entry.resolve())
    return folder


def _spoken(speech: Speech, text: str = "") -> Output:
    return Output(text=text, units=tuple(speech.units), audio=speech.audio, sample_rate=speech.sample_rate)


def unit_figures(sequences: Sequence[Sequence[int]], codebook_size: int, unit_rate: float) -> dict[str, float]:
    """What units cost and how evenly they are used.

    Returns:
        ``bitrate``: bits a second, rate x log2 of the codebook; ``entropy_bitrate``: the same with the entropy of the
        units that came; ``used``: per cent of the codebook that came at all; ``perplexity``: 2 to the entropy.

    Raises:
        InputError: a unit is none of the codebook's.
    """
    counts = _counts(np.concatenate([np.asarray(s, int) for s in sequences]), codebook_size)
    share = counts[counts > 0] / counts.sum()
    entropy = float(-(share * np.log2(share)).sum())
    return {
        "bitrate": unit_rate * float(np.log2(codebook_size)),
        "entropy_bitrate": unit_rate * entropy,
        "used": 100 * float(np.mean(counts > 0)),
        "perplexity": 2**entropy,
    }


def leakage(
    sequences: Sequence[Sequence[int]], labels: Sequence[str], groups: Sequence[str], codebook_size: int, seed: int = 0
) -> tuple[float, float]:
    """How well a linear probe tells a label (voice, emotion) from units: its accuracy and the majority's, in per cent.

    The probe sees each utterance's histogram of units. Equal figures mean that nothing leaks.

    Raises:
        InputError: a unit is none of the codebook's.
    """
    histograms = np.stack([_counts(np.asarray(s, int), codebook_size) for s in sequences]).astype(float)
    return probe(np.sqrt(histograms / np.maximum(histograms.sum(1, keepdims=True), 1)), labels, groups, seed)


def _counts(units: np.ndarray, codebook_size: int) -> np.ndarray:
    """How often each of the codebook came. Raises: InputError: another one did."""
    if len(units) and not 0 <= units.min() <= units.max() < codebook_size:
        outside = int(units.max() if units.max() >= codebook_size else units.min())
        raise InputError(f"units: {outside} is none of 0 to {codebook_size - 1}; count them by their own tokenizer")
    return np.bincount(units, minlength=codebook_size)


def timbre(audio: str) -> list[float]:
    """How a recording sounds, without its words: mean and spread over time of 40 log-mel bands; [] if unreadable."""
    from emova.speech.audio import load_audio

    try:
        samples = load_audio(audio, 16000)
    except ValueError:
        return []
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (0, 400)), 400)[::160] * np.hanning(400)
    power = np.abs(np.fft.rfft(frames, 512)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42) / 2595) - 1) / 8000 * 256
    bins = np.arange(257)
    rising = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    bands = np.log(power @ np.clip(np.minimum(rising, falling), 0, None).T + 1e-8)
    loud = bands[bands.mean(1) > np.percentile(bands.mean(1), 40)]
    return [round(float(value), 3) for value in (*loud.mean(0), *loud.std(0))]


def probe(features_ND: np.ndarray, labels: Sequence[str], groups: Sequence[str], seed: int = 0) -> tuple[float, float]:
    """Accuracy of a linear probe and of always the commonest label, in per cent, over held-out groups.

    ``groups`` name the sentences: none is in training and test at once, so a voice is not known by what it said.
    """
    from collections import Counter

    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    wanted = np.asarray(labels)
    hits = base = 0
    for train, test in GroupKFold(min(5, len(set(groups)))).split(features_ND, wanted, groups):
        most = Counter(wanted[train]).most_common(1)[0][0]
        base += int(np.sum(wanted[test] == most))
        if len(set(wanted[train])) < 2:
            hits += int(np.sum(wanted[test] == most))
            continue
        fitted = LogisticRegression(max_iter=500, random_state=seed).fit(features_ND[train], wanted[train])
        hits += int(np.sum(fitted.predict(features_ND[test]) == wanted[test]))
    return 100 * hits / len(wanted), 100 * base / len(wanted)
