"""Tasks: what is asked, of which part of the model, and how the answer is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from emova.core.errors import InputError
from emova_eval.judges.grading import AnswerJudge, EndpointJudge, Grade
from emova_eval.judges.voices import Rater, VoiceJudges
from emova_eval.metrics.choices import LETTERS, contains_answer
from emova_eval.metrics.text import character_errors, word_errors
from emova_eval.models.assistant import EvalModel
from emova_eval.suite.datasets import read_text
from emova_eval.suite.run_folder import check_unique
from emova_eval.suite.samples import Example, Output, Record, Score, mean
from emova_eval.suite.scoring import Metric, find_metric

LETTER_PROMPT = "Answer with the letter of the right choice alone."
SHORT_PROMPT = "Answer with a word or a short phrase."
YES_NO_PROMPT = "Answer yes or no."
SPEAKER_CHARACTERS = 11  # BAC009S0764 of BAC009S0764W0121


class Recogniser(Protocol):
    """An independent recogniser (``emova_eval.judges.words.WhisperJudge``): samples [T] at 16 kHz to words."""

    name: str

    def transcribe(self, samples: np.ndarray) -> str: ...


@dataclass
class MetricTask:
    """A task whose answers a metric scores; ``absent`` names further figures that no judge here gives, and why."""

    name: str
    items: Sequence[Example]
    metric: Metric
    judge: str = "rules of this package"
    absent: dict[str, str] = field(default_factory=dict)
    interval: ClassVar[bool] = True

    @property
    def unit(self) -> str:
        return self.metric.unit

    @property
    def higher_is_better(self) -> bool:
        return self.metric.higher_is_better

    def examples(self) -> Iterable[Example]:
        """All questions."""
        return self.items

    def ask(self, model: EvalModel, example: Example) -> Output:
        """A written answer to text, pictures and speech."""
        return model.answer_text(example.images, question_text(example), example.audio)

    def score(self, example: Example, output: Output) -> Score:
        """The metric's score."""
        return self._metric(example).judge(output.text, example)

    def worst(self, example: Example, failure: str) -> Score:
        """The metric's worst score."""
        return dataclasses.replace(self._metric(example).worst(example), failure=failure)

    def aggregate(self, records: Sequence[Record]) -> float:
        """The metric's figure."""
        return self.metric.aggregate(records)

    def cluster(self, record: Record) -> str:
        """The metric's clusters."""
        return self.metric.cluster(record)

    def stratum(self, record: Record) -> str:
        """The metric's strata."""
        return self.metric.stratum(record)

    def further(self, records: Sequence[Record]) -> dict[str, float]:
        """Figures that take several records at once; none here."""
        return {}

    def _metric(self, example: Example) -> Metric:
        return self.metric


def question_text(example: Example) -> str:
    """The question with its choices and the form of answer that the metric needs."""
    if example.audio and not example.choices:
        return example.text
    parts = [example.text] if example.text else []
    parts += [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(example.choices)]
    if example.choices:
        parts.append(LETTER_PROMPT)
    elif example.metric == "mme":
        parts += [] if "yes or no" in example.text.lower() else [YES_NO_PROMPT]
    elif example.metric in ("vqa", "relaxed", "anls", "ocrbench"):
        parts.append(SHORT_PROMPT)
    return "\n".join(parts)


class OwnTask(MetricTask):
    """A data set of the user's; each question has its own metric, and one figure needs one metric."""

    def __init__(self, name: str, items: Sequence[Example]) -> None:
        found = sorted({item.metric for item in items})
        if len(found) != 1:
            raise InputError(
                f"{name}: questions with different metrics ({', '.join(found)}); make one data set of each"
            )
        super().__init__(name, items, find_metric(found[0]))

    def ask(self, model: EvalModel, example: Example) -> Output:
        """A spoken question is answered in the form of a spoken reply: a written answer to it is its transcript."""
        if example.audio and not example.choices:
            return model.reply(example.audio, example.images, example.text)
        return super().ask(model, example)


class AsrTask(MetricTask):
    """Speech recognition: word errors (English) or character errors (Chinese), pooled."""

    def __init__(self, name: str, items: Sequence[Example], language: str = "en") -> None:
        super().__init__(name, items, find_metric("wer" if language == "en" else "cer"), "none; the model's own words")

    def ask(self, model: EvalModel, example: Example) -> Output:
        """What the model hears."""
        return model.transcribe(example.audio)


def resampled(output: Output, rate: int = 16000) -> np.ndarray:
    """An answer's sound [T] at the judges' rate. Raises: ValueError: there is none."""
    import soxr

    if output.audio is None or not len(output.audio):
        raise ValueError("no speech came")
    return np.asarray(soxr.resample(output.audio, output.sample_rate, rate), np.float32)


def hear(recogniser: Recogniser, output: Output) -> str:
    """What an independent recogniser hears of an answer; nothing where there is no sound."""
    return "" if output.audio is None or not len(output.audio) else recogniser.transcribe(resampled(output))


def rated(raters: Sequence[Rater], output: Output) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Each rater's verdict on an answer's sound: 1, the worst, where there is no sound or no verdict.

    Returns:
        The values, and a note ``judge_failures`` where a rater failed or wrote nonsense.
    """
    values: dict[str, tuple[float, float]] = {}
    failures = []
    silent = output.audio is None or not len(output.audio)
    for rater in raters:
        value = 1.0
        if not silent:
            try:
                value = rater.score(resampled(output))
                if not np.isfinite(value):
                    raise ValueError("no number")
            except (ValueError, RuntimeError) as error:
                value = 1.0
                failures.append(f"{rater.name}: no verdict ({type(error).__name__}); counts as 1")
        values[rater.key] = (value, 1.0)
    return values, {"judge_failures": failures} if failures else {}


class TtsTask(MetricTask):
    """Text to speech, judged by what a recogniser hears (EMOVA, appendix C: TTS-WER, TTS-CER).

    Further: each rater's mean from 1 to 5. An answer without units or sound is a failure: every word is wrong.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Example],
        recogniser: Recogniser,
        language: str = "en",
        voice: str = "female",
        judges: VoiceJudges | None = None,
    ) -> None:
        judges = judges or VoiceJudges()
        super().__init__(name, items, find_metric("wer" if language == "en" else "cer"), recogniser.name + judges.names)
        self.recogniser, self.voice, self.raters = recogniser, voice, judges.raters
        self.absent = judges.absent_of_sound

    def ask(self, model: EvalModel, example: Example) -> Output:
        """The text read aloud."""
        return model.speak(example.text, self.voice)

    def score(self, example: Example, output: Output) -> Score:
        """Errors of what was heard."""
        if output.audio is None or not len(output.audio):
            return self.worst(example, "no speech came")
        heard = hear(self.recogniser, output)
        values, notes = rated(self.raters, output)
        notes |= {"heard": heard, "units": len(output.units)}
        return dataclasses.replace(self.metric.judge(heard, _with_text(example)), values=values, notes=notes)

    def worst(self, example: Example, failure: str) -> Score:
        """Every word of the text wrong, and the worst rating."""
        values, _ = rated(self.raters, Output())
        return dataclasses.replace(super().worst(_with_text(example), failure), values=values)


def _with_text(example: Example) -> Example:
    return dataclasses.replace(example, answers=example.answers or (example.text,))


DIALOGUE_MODES = ("end-to-end", "unit-in-text-out", "text-in-text-out")


class DialogueTask(MetricTask):
    """Spoken dialogue (EMOVA, Table 4): a score from 0 to 10, style labels, form, and recognition on the way.

    An example has ``audio``, the instruction's ``text``, the reference reply in ``answers``, and in ``facts`` the
    ``emotion`` and ``pitch`` of the reference. Further figures: ``emotion`` and ``pitch`` (by the judge where it is a
    language model, else equality with the reference's labels), ``form`` (the reply parsed), ``recognition`` (pooled
    errors of the transcript), ``speech`` (pooled errors between the reply and what is heard of it).
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Example],
        mode: str,
        judge: AnswerJudge,
        recogniser: Recogniser | None = None,
        language: str = "en",
    ) -> None:
        if mode not in DIALOGUE_MODES:
            raise InputError(f"mode: {mode[:40]!r} is unknown; choose from {', '.join(DIALOGUE_MODES)}")
        if mode == "end-to-end" and recogniser is None:
            raise InputError("end-to-end: a recogniser must hear the replies; run `emova data fetch nano`")
        metric = Metric("dialogue", lambda said, example: Score(0.0), unit="of 10", aggregate=mean)
        heard = f"; heard by {recogniser.name}" if recogniser and mode == "end-to-end" else ""
        super().__init__(name, items, metric, judge.name + heard)
        self.mode, self.answer_judge, self.recogniser = mode, judge, recogniser
        self.count_errors = word_errors if language == "en" else character_errors

    def ask(self, model: EvalModel, example: Example) -> Output:
        """A spoken reply to speech, or a written answer to the written instruction."""
        if self.mode == "text-in-text-out":
            return model.answer_text(example.images, example.text)
        return model.reply(example.audio, example.images)

    def score(self, example: Example, output: Output) -> Score:
        """The judge's grade of what was said, and what else the reply shows."""
        reference = example.answers[0] if example.answers else ""
        values: dict[str, tuple[float, float]] = {}
        notes: dict[str, Any] = {}
        said = output.text
        if self.mode != "text-in-text-out":
            heard_question = self.count_errors(example.text, output.transcript)
            values["recognition"] = (float(heard_question.edits), float(heard_question.reference_tokens))
            values["form"] = (float(output.form_ok), 1.0)
            values |= self._styles(example, output, notes)
            notes["transcript"] = output.transcript
            notes |= {"emotion": output.emotion, "pitch": output.pitch, "units": len(output.units)}
            notes |= {f"asked_{key}": label for key, label in self._asked(example).items()}
        if self.mode == "end-to-end" and self.recogniser is not None:
            said = hear(self.recogniser, output)
            errors = self.count_errors(output.text, said)
            values["speech"] = (float(errors.edits), float(errors.reference_tokens))
            notes["heard"] = said
        grade: Grade = self.answer_judge.dialogue(example.text, reference, said, heard=self.mode == "end-to-end")
        notes |= grade.notes()
        return Score(grade.value, 1.0, values, notes, grade.failure)

    def worst(self, example: Example, failure: str) -> Score:
        """0 points; and the label, the form and the words are all wrong too."""
        values: dict[str, tuple[float, float]] = {}
        if self.mode != "text-in-text-out":
            words = float(max(self.count_errors(example.text, "").edits, 1))
            values = {"recognition": (words, words), "form": (0.0, 1.0)}
            values |= {key: (0.0, 1.0) for key in ("emotion", "pitch")}
        if self.mode == "end-to-end":
            values["speech"] = (1.0, 1.0)
        notes = {f"asked_{key}": label for key, label in self._asked(example).items()}
        notes |= {key: "none" for key in self._asked(example)}
        return Score(0.0, 1.0, values, {} if self.mode == "text-in-text-out" else notes, failure)

    def _asked(self, example: Example) -> dict[str, str]:
        return {key: str(example.facts[key]) for key in ("emotion", "pitch") if key in example.facts}

    def _styles(self, example: Example, output: Output, notes: dict[str, Any]) -> dict[str, tuple[float, float]]:
        if isinstance(self.answer_judge, EndpointJudge):
            found = self.answer_judge.styles(output.transcript, output.text, output.emotion, output.pitch)
            if failure := found[0].failure or found[1].failure:
                notes["judge_failures"] = [f"style: {failure}"]
            return {"emotion": (found[0].value, 1.0), "pitch": (found[1].value, 1.0)}
        return {key: (float(getattr(output, key) == label), 1.0) for key, label in self._asked(example).items()}


class SpokenQaTask(MetricTask):
    """Spoken question answering (GLM-4-Voice, Table 4): Web Questions, Llama Questions, TriviaQA; S→T or S→S.

    Right is an answer that contains a reference (as the earlier work does), or that the judge calls correct. Further,
    in S→S: ``speech``, the pooled errors between the reply's text and what is heard of it (Table 6's ASR-WER).
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Example],
        recogniser: Recogniser | None = None,
        judge: AnswerJudge | None = None,
    ) -> None:
        how = judge.name if judge else "contains a reference"
        heard = f"; heard by {recogniser.name}" if recogniser else ""
        super().__init__(name, items, find_metric("contains"), how + heard)
        self.recogniser, self.answer_judge = recogniser, judge

    def ask(self, model: EvalModel, example: Example) -> Output:
        """A spoken reply."""
        return model.reply(example.audio)

    def score(self, example: Example, output: Output) -> Score:
        """Whether the written (S→T) or the heard (S→S) answer is right."""
        said = hear(self.recogniser, output) if self.recogniser else output.text
        values = {}
        if self.recogniser:
            errors = word_errors(output.text, said)
            values["speech"] = (float(errors.edits), float(errors.reference_tokens))
        if self.answer_judge is None:
            return Score(contains_answer(said, example.answers), values=values, notes={"said": said})
        grade = self.answer_judge.correct(example.text, example.answers, said)
        return Score(grade.value, 1.0, values, {"said": said, **grade.notes()}, grade.failure)

    def worst(self, example: Example, failure: str) -> Score:
        """Wrong, and one word of the reply lost."""
        return Score(0.0, values={"speech": (1.0, 1.0)} if self.recogniser else {}, failure=failure)


class KnowledgeTask(SpokenQaTask):
    """Questions on facts with references (GLM-4-Voice §5.2, Knowledge of Table 6): the share that a language model
    calls correct, as points of 10. The paper asks 100 of Web Questions, Llama Questions and TriviaQA; S→T or S→S."""

    def __init__(
        self, name: str, items: Sequence[Example], judge: EndpointJudge, recogniser: Recogniser | None = None
    ) -> None:
        super().__init__(name, items, recogniser, judge)
        self.metric = Metric("knowledge", self.metric.judge, unit="of 10", aggregate=lambda rows: 10 * mean(rows))


class GeneralQaTask(MetricTask):
    """Open questions without a reference (GLM-4-Voice §5.2: AlpacaEval's helpful_base and vicuna), graded from 1 to 10.

    S→T without a ``recogniser``, S→S with one: what is heard is graded. A question with ``text`` alone is asked in
    writing. Further, in S→S (Table 6): ``speech``, the pooled errors between the reply's text and what is heard of it
    (ASR-WER), and each rater's mean from 1 to 5 (``utmos`` is the paper's).
    """

    def __init__(
        self, name: str, items: Sequence[Example], judge: EndpointJudge, recogniser: Recogniser | None = None,
        judges: VoiceJudges | None = None,
    ) -> None:  # fmt: skip
        judges = judges if judges and recogniser else VoiceJudges()
        metric = Metric("quality", lambda said, example: Score(1.0), unit="of 10", aggregate=mean)
        heard = f"; heard by {recogniser.name}{judges.names}" if recogniser else ""
        super().__init__(name, items, metric, judge.name + heard, judges.absent_of_sound)
        self.answer_judge, self.recogniser, self.raters = judge, recogniser, judges.raters

    def ask(self, model: EvalModel, example: Example) -> Output:
        """A spoken reply, or to a written question a written one."""
        if example.audio:
            return model.reply(example.audio, example.images)
        return model.answer_text(example.images, example.text)

    def score(self, example: Example, output: Output) -> Score:
        """The judge's grade of what was written (S→T) or heard (S→S)."""
        values: dict[str, tuple[float, float]] = {}
        notes: dict[str, Any] = {}
        said = output.text
        if self.recogniser is not None:
            said = hear(self.recogniser, output)
            values, notes = rated(self.raters, output)
            errors = word_errors(output.text, said)
            values["speech"] = (float(errors.edits), float(errors.reference_tokens))
        grade = self.answer_judge.quality(example.text, said)
        return Score(grade.value, 1.0, values, {**notes, "said": said, **grade.notes()}, grade.failure)

    def worst(self, example: Example, failure: str) -> Score:
        """1, the lowest grade; and in S→S the worst ratings and one word of the reply lost."""
        values: dict[str, tuple[float, float]] = {}
        if self.recogniser is not None:
            values = {**rated(self.raters, Output())[0], "speech": (1.0, 1.0)}
        return Score(1.0, values=values, failure=failure)


class ClozeTask(MetricTask):
    """StoryCloze and Topic-StoryCloze by likelihood (GLM-4-Voice, Table 3; Hassid et al. 2023).

    ``audio`` holds the context; S→S: ``facts`` name the recordings ``right`` and ``wrong``; S→T: ``choices`` are the
    right and the wrong ending in writing. A tie is wrong.
    """

    def __init__(self, name: str, items: Sequence[Example], spoken: bool) -> None:
        super().__init__(name, items, find_metric("exact"), "mean log-likelihood a token")
        self.spoken = spoken

    def ask(self, model: EvalModel, example: Example) -> Output:
        """The likelier ending, ``right`` or ``wrong``."""
        context = model.tokenize(example.audio)
        if self.spoken:
            scores = [
                model.log_likelihood(context, units=model.tokenize(example.facts[key])) for key in ("right", "wrong")
            ]
        else:
            scores = [model.log_likelihood(context, text=choice) for choice in example.choices[:2]]
        return Output(text="right" if scores[0] > scores[1] else "wrong")

    def score(self, example: Example, output: Output) -> Score:
        """1 where the right ending is likelier."""
        return Score(float(output.text == "right"))

    def worst(self, example: Example, failure: str) -> Score:
        """A pair that could not be scored is wrong."""
        return Score(0.0, failure=failure)


# --- speech data sets -------------------------------------------------------------------------------------------------
def read_librispeech(folder: str | Path) -> list[Example]:
    """LibriSpeech's layout: SPEAKER/CHAPTER/*.trans.txt with "ID WORDS" lines beside ID.flac."""
    items = []
    for path in sorted(Path(folder).rglob("*.trans.txt")):
        for line in read_text(path).splitlines():
            id, _, words = line.partition(" ")
            if words:
                items.append(Example(id, audio=str(path.parent / f"{id}.flac"), answers=(words,), metric="wer"))
    return _checked(items, folder, "*.trans.txt")


def read_libritts(folder: str | Path) -> list[Example]:
    """LibriTTS's layout: SPEAKER/CHAPTER/ID.normalized.txt beside ID.wav; the text is to be read aloud."""
    items = []
    for path in sorted(Path(folder).rglob("*.normalized.txt")):
        if text := read_text(path).strip():
            audio = path.with_name(path.name.replace(".normalized.txt", ".wav"))
            items.append(Example(audio.stem, text, str(audio), answers=(text,), metric="wer"))
    return _checked(items, folder, "*.normalized.txt")


def read_aishell(folder: str | Path) -> list[Example]:
    """AISHELL's layout: a file ``*transcript*.txt`` or ``trans.txt`` with "ID WORDS", and ID.wav anywhere.

    AISHELL-1's transcript covers training too, so of it only the speakers count of whom the folder has recordings.
    """
    folder = Path(folder)
    sounds = {path.stem: str(path) for path in sorted(folder.rglob("*.wav"))}
    speakers = {id[:SPEAKER_CHARACTERS] for id in sounds}
    items = []
    for path in sorted({*folder.rglob("*transcript*.txt"), *folder.rglob("trans.txt")}):
        for line in read_text(path).splitlines():
            id, *words = line.split() or [""]
            # A recording that is missing of such a speaker stays in the list, and fails when it is asked for.
            if words and (not speakers or id[:SPEAKER_CHARACTERS] in speakers):
                audio = sounds.get(id, str(folder / f"{id}.wav"))
                items.append(Example(id, audio=audio, answers=("".join(words),), metric="cer"))
    return _checked(items, folder, "transcript file")


def read_seed_tts(meta: str | Path) -> list[Example]:
    """Seed-TTS-eval's meta.lst: ID|PROMPT TEXT|PROMPT WAV|TEXT, with a fifth column, the real recording, in places."""
    meta = Path(meta)
    if not meta.is_file():
        raise InputError(f"{meta}: no such file")
    items = []
    for number, line in enumerate(read_text(meta).splitlines(), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) not in (4, 5):
            raise InputError(f"{meta}, line {number}: {len(cells)} columns, not 4 or 5")
        facts = {"prompt_text": cells[1], "prompt_audio": str(meta.parent / cells[2])}
        items.append(Example(cells[0], cells[3], answers=(cells[3],), metric="wer", facts=facts))
    return _checked(items, meta, "lines")


def _checked(items: list[Example], where: str | Path, what: str) -> list[Example]:
    if not items:
        raise InputError(f"{where}: no {what} with utterances here")
    check_unique((item.id for item in items), str(where))
    return items
