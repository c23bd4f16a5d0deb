"""The speech codec as tasks: phones in the units, words through the round trip, styles in the waveform, MOS.

T: samples, U: units, D: features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import product
from typing import ClassVar

import numpy as np

from emova.core.levenshtein import edit_distance
from emova.speech.style import DEFAULT_STYLES, Style
from emova_eval.judges.voices import VoiceJudges
from emova_eval.metrics.acoustics import EmotionJudge, measure
from emova_eval.metrics.text import token_errors
from emova_eval.models.assistant import EvalModel, SpeechCodec
from emova_eval.suite.samples import Example, Output, Record, Score
from emova_eval.suite.scoring import Metric, find_metric
from emova_eval.suite.tasks import MetricTask, Recogniser, hear, rated, resampled

NEUTRAL_FEMALE = Style("female", "neutral", "normal")


class PhoneTask(MetricTask):
    """Phone error rate of the S2U tokenizer (EMOVA §3.2): its phone decoder reads the *units*, greedily.

    An example's first answer holds the right phones, separated by spaces.
    """

    def __init__(self, name: str, items: Sequence[Example], labels: str) -> None:
        def errors(said: str, example: Example) -> Score:
            found = token_errors(example.answers[0].split(), said.split())
            return Score(float(found.edits), float(found.reference_tokens))

        super().__init__(name, items, Metric("phones", errors, higher_is_better=False), f"labels: {labels}")

    def ask(self, model: EvalModel, example: Example) -> Output:
        """The phones of a recording."""
        return Output(text=" ".join(model.phones(example.audio)))


class ReconstructionTask(MetricTask):
    """Speech to units to speech in the neutral female style: word errors of what is heard.

    Further: ``recordings``, the errors of the same recogniser on the recordings themselves, which no codec can beat by
    much; each rater's mean from 1 to 5; ``visqol``, from 1 to 5, how near the rendering is as a copy of the recording;
    and the similarity of voices as the speaker encoder has it, ``speaker`` between a recording and its rendering,
    ``speaker_renderings`` among the renderings, ``speaker_recordings`` among the recordings. A codec that
    keeps the words and leaves the voice behind has the first near the third, and a steady voice has the second near 1.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Example],
        recogniser: Recogniser,
        judges: VoiceJudges | None = None,
        language: str = "en",
    ) -> None:
        judges = judges or VoiceJudges()
        speaker = "".join(f"; {each.name}" for each in (judges.comparer, judges.speaker) if each)
        metric = find_metric("wer" if language == "en" else "cer")
        super().__init__(name, items, metric, recogniser.name + judges.names + speaker, judges.absent)
        self.recogniser, self.raters = recogniser, judges.raters
        self.speaker, self.comparer = judges.speaker, judges.comparer

    def ask(self, model: SpeechCodec, example: Example) -> Output:
        """The recording said again."""
        return model.resynthesize(example.audio, NEUTRAL_FEMALE)

    def score(self, example: Example, output: Output) -> Score:
        """Errors of what was heard."""
        from emova.speech.audio import load_audio

        recording = load_audio(example.audio, 16000)
        heard = hear(self.recogniser, output)
        score = self.metric.judge(heard, example)
        original = self.metric.judge(self.recogniser.transcribe(recording), example)
        values, notes = rated(self.raters, output)
        values["recordings"] = (original.value, original.weight)
        notes |= {"heard": heard, "units": len(output.units)}
        if self.comparer is not None:
            try:
                values[self.comparer.key] = (self.comparer.compare(recording, resampled(output)), 1.0)
            except ValueError as error:
                values[self.comparer.key] = (1.0, 1.0)
                notes["judge_failures"] = [*notes.get("judge_failures", ()), f"{self.comparer.name}: {error}"]
        if self.speaker is not None:
            try:
                voices = [self.speaker.embed(sound) for sound in (recording, resampled(output))]
                values["speaker"] = (float(voices[0] @ voices[1]), 1.0)
                notes["voices"] = [[round(float(x), 4) for x in voice] for voice in voices]
            except ValueError as error:
                values["speaker"] = (0.0, 1.0)
                notes["judge_failures"] = [*notes.get("judge_failures", ()), f"{self.speaker.name}: {error}"]
        return dataclasses.replace(score, values=values, notes=notes)

    def worst(self, example: Example, failure: str) -> Score:
        """Every word wrong, the worst ratings, and nobody's voice."""
        values, _ = rated(self.raters, Output())
        if self.comparer is not None:
            values[self.comparer.key] = (1.0, 1.0)
        if self.speaker is not None:
            values["speaker"] = (0.0, 1.0)
        return dataclasses.replace(super().worst(example, failure), values=values)

    def further(self, records: Sequence[Record]) -> dict[str, float]:
        """Likeness of voices among the recordings, and among their renderings."""
        voices = np.array([record.notes["voices"] for record in records if "voices" in record.notes])
        if len(voices) < 2:
            return {}
        return {
            "speaker_recordings": mean_similarity(voices[:, 0]),
            "speaker_renderings": mean_similarity(voices[:, 1]),
        }


class StylesTask(MetricTask):
    """Style controllability (EMOVA, appendix D.1): is the emotion asked for the one that is heard?

    Every recording's units are spoken in all 24 styles; the figure is the share of right emotions. Further, as shares:
    ``pitch_order``, triples low, normal, high with rising median F0; ``gender_order``, pairs whose female voice is the
    higher one; ``gender``, utterances on the right side of the voices' middle F0; ``same_length``, recordings that
    take as long in every style; ``units_again``, the mean edit distance between the units and those heard again in the
    rendering; and to compare with, ``units_other``, between the units of two recordings.
    """

    styles: ClassVar[tuple[Style, ...]] = tuple(
        Style(g, e, p) for g, e, p in product(DEFAULT_STYLES.voices, DEFAULT_STYLES.emotions, DEFAULT_STYLES.pitches)
    )

    def __init__(self, name: str, items: Sequence[Example], judge: EmotionJudge) -> None:
        metric = Metric("styles", lambda said, example: Score(0.0), cluster=lambda record: record.notes["recording"])
        expanded = [
            Example(f"{item.id}/{'/'.join(style_words(style))}", item.text, item.audio, facts={"recording": item.id})
            for item in items
            for style in self.styles
        ]
        super().__init__(name, expanded, metric, judge.name)
        self.emotion_judge = judge
        self._styles = {example.id: self.styles[i % len(self.styles)] for i, example in enumerate(expanded)}

    def ask(self, model: SpeechCodec, example: Example) -> Output:
        """The recording's units in a style; the units heard again in it are the output's text."""
        units = self._units(model, example.audio)
        output = model.render(units, self._styles[example.id])
        again = model.tokenize(resampled(output))
        return dataclasses.replace(output, text=" ".join(map(str, again)), units=units)

    @cached_property
    def _units(self) -> Callable[..., tuple[int, ...]]:
        @lru_cache(maxsize=4)
        def units(model: SpeechCodec, audio: str) -> tuple[int, ...]:
            return model.tokenize(audio)

        return units

    def score(self, example: Example, output: Output) -> Score:
        """1 where the emotion is heard."""
        style = self._styles[example.id]
        sound = resampled(output)
        acoustics = measure(sound)
        heard = self.emotion_judge.hear(sound, acoustics)
        again = [int(unit) for unit in output.text.split()]
        notes = {
            "recording": example.facts["recording"], "gender": style.gender, "asked_emotion": style.emotion,
            "emotion": heard, "style_pitch": style.pitch, "f0": round(acoustics.f0_median, 1),
            "samples": 0 if output.audio is None else len(output.audio), "units": list(output.units),
            "distance": distance(output.units, again),
        }  # fmt: skip
        return Score(float(heard == style.emotion), notes=notes)

    def worst(self, example: Example, failure: str) -> Score:
        """Not heard, in no order, and unlike."""
        style = self._styles[example.id]
        notes = {
            "recording": example.facts["recording"], "gender": style.gender, "asked_emotion": style.emotion,
            "emotion": "none", "style_pitch": style.pitch, "f0": 0.0, "samples": 0, "units": [], "distance": 1.0,
        }  # fmt: skip
        return Score(0.0, notes=notes, failure=failure)

    def further(self, records: Sequence[Record]) -> dict[str, float]:
        """The figures that take several renderings at once, as shares; a failed one has 0 Hz, which is in no order."""
        f0 = {_place(record): record.notes["f0"] for record in records}
        recordings = {record.notes["recording"]: record for record in records}
        keys = [
            [(r, g, e, p) for p in ("low", "normal", "high")]
            for r in recordings
            for g in DEFAULT_STYLES.voices
            for e in DEFAULT_STYLES.emotions
        ]
        triples = [[f0[key] for key in triple] for triple in keys if all(key in f0 for key in triple)]
        pairs = [
            (f0[r, "female", e, p], f0[r, "male", e, p])
            for r in recordings
            for e in DEFAULT_STYLES.emotions
            for p in DEFAULT_STYLES.pitches
            if (r, "female", e, p) in f0 and (r, "male", e, p) in f0
        ]
        both = [pair for pair in pairs if min(pair) > 0]
        middle = float(np.sqrt(np.median([a for a, _ in both]) * np.median([b for _, b in both]))) if both else 0.0
        sides = [side for female, male in pairs for side in (female > middle > 0, 0 < male < middle)]
        lengths: dict[str, set[int]] = {}
        for record in records:
            lengths.setdefault(record.notes["recording"], set()).add(record.notes["samples"])
        units = [record.notes["units"] for record in recordings.values() if record.notes["units"]]
        others = [distance(a, b) for a, b in zip(units, units[1:] + units[:1], strict=True)] if len(units) > 1 else []
        figures = {
            "pitch_order": [0 < low < normal < high for low, normal, high in triples],
            "gender_order": [female > male > 0 for female, male in pairs],
            "gender": sides,
            "same_length": [len(found) == 1 and 0 not in found for found in lengths.values()],
            "units_again": [record.notes["distance"] for record in records],
            "units_other": others,
        }
        return {name: float(np.mean(found)) for name, found in figures.items() if found}


class ControllabilityTask(MetricTask):
    """Style controllability as EMOVA measures it (appendix D.1): the units are the model's own.

    The model reads 50 texts an emotion aloud; its units are spoken in that emotion by the female voice, whose styles
    differ most, and the recogniser says which of the four emotions it hears. The figure is the share of right ones; the
    report has the confusion matrix. With fewer texts than 50 there are fewer of each.

    Args:
        items: with ``text``; the first 50 are read in every emotion.
    """

    texts = 50

    def __init__(self, name: str, items: Sequence[Example], judge: EmotionJudge) -> None:
        metric = Metric("controllability", lambda said, example: Score(0.0), cluster=lambda r: r.notes["recording"])
        expanded = [
            Example(f"{item.id}/{emotion}", item.text, facts={"recording": item.id, "emotion": emotion})
            for item in items[: self.texts]
            for emotion in DEFAULT_STYLES.emotions
        ]
        super().__init__(name, expanded, metric, judge.name)
        self.emotion_judge = judge

    def ask(self, model: EvalModel, example: Example) -> Output:
        """The text as the model's units, spoken in the emotion."""
        units = self._units(model, example.text)
        return dataclasses.replace(
            model.render(units, Style("female", example.facts["emotion"], "normal")), units=units
        )

    @cached_property
    def _units(self) -> Callable[..., tuple[int, ...]]:
        @lru_cache(maxsize=4)
        def units(model: EvalModel, text: str) -> tuple[int, ...]:
            return tuple(model.speak(text).units)

        return units

    def score(self, example: Example, output: Output) -> Score:
        """1 where the emotion is heard."""
        sound = resampled(output)
        heard = self.emotion_judge.hear(sound, measure(sound))
        return Score(float(heard == example.facts["emotion"]), notes=self._notes(example, heard, len(output.units)))

    def worst(self, example: Example, failure: str) -> Score:
        """Not heard."""
        return Score(0.0, notes=self._notes(example, "none", 0), failure=failure)

    def _notes(self, example: Example, heard: str, units: int) -> dict[str, object]:
        asked = example.facts["emotion"]
        return {"recording": example.facts["recording"], "asked_emotion": asked, "emotion": heard, "units": units}


def mean_similarity(voices_ND: np.ndarray) -> float:
    """The mean dot product of different rows of unit vectors [N, D], N at least 2."""
    count = len(voices_ND)
    total = float(np.sum(voices_ND.sum(0) ** 2) - np.sum(voices_ND**2))
    return total / (count * (count - 1))


def style_words(style: Style) -> tuple[str, str, str]:
    """Gender, emotion and pitch."""
    return style.gender, style.emotion, style.pitch


def _place(record: Record) -> tuple[str, str, str, str]:
    notes = record.notes
    return notes["recording"], notes["gender"], notes["asked_emotion"], notes["style_pitch"]


def distance(left: Sequence[int] | np.ndarray, right: Sequence[int] | np.ndarray) -> float:
    """Edit distance of two unit sequences over the longer length."""
    longer = max(len(left), len(right))
    return edit_distance(list(map(int, left)), list(map(int, right))) / longer if longer else 0.0


@dataclasses.dataclass(frozen=True)
class UnitDistances:
    """Mean distance between units: of one sentence said in two ways, and of two sentences said in one way."""

    same_sentence: float
    same_voice: float


def unit_distances(groups: dict[str, list[np.ndarray]]) -> UnitDistances:
    """Distances over ``groups``: sentence → its unit sequences [U], one a (voice, emotion), in the same order."""
    same, other = [], []
    names = sorted(groups)
    for name, following in zip(names, names[1:] + names[:1], strict=True):
        renderings = groups[name]
        same += [distance(renderings[0], rendering) for rendering in renderings[1:]]
        other.append(distance(renderings[0], groups[following][0]))
    return UnitDistances(float(np.mean(same)), float(np.mean(other)))
