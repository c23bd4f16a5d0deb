"""Metrics by name: how one answer is scored and how scores become a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emova.core.errors import InputError
from emova_eval.metrics import choices, documents, maths
from emova_eval.metrics.text import ErrorRate, character_errors, word_errors
from emova_eval.suite.samples import Aggregate, Example, Record, Score, pooled

Judge = Callable[[str, Example], Score]


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as data sets name it.
        judge: prediction and example to score.
        unit: of the figure.
        higher_is_better: its direction.
        aggregate: records to figure.
        cluster: what is drawn together for confidence intervals.
        stratum: the part of a sum that it is drawn from, so that no part is ever without questions.
    """

    name: str
    judge: Judge
    unit: str = "%"
    higher_is_better: bool = True
    aggregate: Aggregate = pooled
    cluster: Callable[[Record], str] = lambda record: record.id
    stratum: Callable[[Record], str] = lambda record: ""

    def worst(self, example: Example) -> Score:
        """The score of no answer: zero, or every reference token wrong."""
        score = self.judge("", example)
        return Score(0.0 if self.higher_is_better else max(score.value, score.weight), score.weight)


def _plain(match: Callable[[str, Sequence[str]], float]) -> Judge:
    return lambda said, example: Score(match(said, example.answers))


def _errors(count: Callable[[str, str], ErrorRate]) -> Judge:
    def judge(said: str, example: Example) -> Score:
        # Of several references the nearest counts.
        found = [count(answer, said) for answer in example.answers] or [count("", said)]
        best = min(found, key=lambda errors: errors.rate)
        return Score(float(best.edits), float(best.reference_tokens))

    return judge


def _choice(said: str, example: Example) -> Score:
    picked = choices.extract_choice(said, example.choices)
    hit = choices.choice_match(said, example.answers[0] if example.answers else "", example.choices)
    return Score(hit, notes={"choice": picked or "none"})


def _choice_or_exact(said: str, example: Example) -> Score:
    return _choice(said, example) if example.choices else Score(choices.exact_match(said, example.answers))


def _yes_no(said: str, example: Example) -> Score:
    word = choices.yes_or_no(said)
    wanted = example.answers[0].strip().lower() if example.answers else ""
    # The picture goes along, since acc+ needs both questions on it.
    return Score(float(word == wanted), notes={"answer": word, "picture": example.facts.get("picture", example.id)})


def _copies(records: Sequence[Record]) -> list[int]:
    """How often each record's question came before: a bootstrap draws one more than once."""
    seen: Counter[str] = Counter()
    copies = []
    for record in records:
        copies.append(seen[record.id])
        seen[record.id] += 1
    return copies


def _mme(records: Sequence[Record]) -> float:
    return choices.mme_sum(
        (record.group, f"{record.notes.get('picture', record.id)}#{copy}", record.value)
        for record, copy in zip(records, _copies(records), strict=True)
    )


def _circular(records: Sequence[Record]) -> float:
    questions: dict[tuple[str, int], list[float]] = {}
    for record, copy in zip(records, _copies(records), strict=True):
        questions.setdefault((circular_question(record), copy), []).append(record.value)
    return 100 * sum(map(min, questions.values())) / len(questions) if questions else 0.0


def circular_question(record: Record) -> str:
    """What all rotations of one question share: the index modulo a million."""
    return str(int(record.id) % choices.CIRCULAR_STEP) if record.id.isdigit() else record.id


def _ocr(said: str, example: Example) -> Score:
    formula = "Handwritten Mathematical" in example.group
    return Score(documents.ocrbench_match(said, example.answers, formula))


def _ocr_points(records: Sequence[Record]) -> float:
    # Out of 1000 whatever the number of questions, so that a limited run shows on the paper's scale.
    return 10 * pooled(records)


def _mathvista(said: str, example: Example) -> Score:
    facts = example.facts
    hit = maths.mathvista_match(
        said, example.answers[0], facts.get("answer_type", "text"), example.choices, facts.get("precision")
    )
    return Score(hit, notes={"result": maths.extract_result(said)})


def _mathverse(said: str, example: Example) -> Score:
    hit = maths.mathverse_match(said, example.answers[0], example.choices)
    return Score(hit, notes={"result": maths.extract_result(said)})


def _picture(record: Record) -> str:
    return f"{record.group}/{record.notes.get('picture', record.id)}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("exact", _plain(choices.exact_match)),
        Metric("contains", _plain(choices.contains_answer)),
        Metric("anls", _plain(documents.anls)),
        Metric("relaxed", _plain(documents.relaxed_match)),
        Metric("vqa", _plain(documents.vqa_accuracy)),
        Metric("choice", _choice),
        Metric("choice_or_exact", _choice_or_exact),
        Metric("circular", _choice, aggregate=_circular, cluster=circular_question),
        Metric("mme", _yes_no, unit="of 2800", aggregate=_mme, cluster=_picture, stratum=lambda record: record.group),
        Metric("ocrbench", _ocr, unit="of 1000", aggregate=_ocr_points),
        Metric("mathvista", _mathvista),
        Metric("mathverse", _mathverse),
        Metric("wer", _errors(word_errors), higher_is_better=False),
        Metric("cer", _errors(character_errors), higher_is_better=False),
    )
}


def find_metric(name: str) -> Metric:
    """The metric of this name. Raises: InputError: there is none."""
    if name not in METRICS:
        raise InputError(f"metric: {name[:40]!r} is unknown; choose from {', '.join(METRICS)}")
    return METRICS[name]
