"""What an evaluation asks and what it keeps of each answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np


@dataclass(frozen=True)
class Example:
    """One question.

    Attributes:
        id: unique within its task.
        text: the question in writing, or what is said in ``audio``.
        audio, images: paths; empty where there is none.
        answers: every accepted answer.
        choices: for multiple choice, in the order of their letters.
        metric: a name of ``emova_eval.suite.scoring.METRICS``.
        group: what figures are split by (a benchmark's category, MME's subtask).
        facts: what its task needs besides (answer type, precision, the picture's name), as plain JSON values.
    """

    id: str
    text: str = ""
    audio: str = ""
    images: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    metric: str = "exact"
    group: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Output:
    """A model's answer; ``audio`` is float32 [T] at ``sample_rate`` Hz, ``form_ok`` whether the reply parsed."""

    text: str = ""
    transcript: str = ""
    emotion: str = ""
    pitch: str = ""
    units: tuple[int, ...] = ()
    audio: np.ndarray | None = None
    sample_rate: int = 0
    form_ok: bool = True


@dataclass(frozen=True)
class Score:
    """``value`` out of ``weight``; a figure is the sum of values over the sum of weights.

    Attributes:
        values: further figures of the same answer, name to (value, weight).
        notes: what was understood: the extracted choice, the judge's words.
        failure: why the answer could not be judged; it still counts, as the worst.
    """

    value: float
    weight: float = 1.0
    values: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Record:
    """One line of ``samples.jsonl``: the question, the answer, the verdict, and the failure if there was one."""

    task: str
    id: str
    question: str
    answers: list[str]
    output: str
    value: float
    weight: float
    group: str = ""
    values: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    seconds: float = 0.0
    audio_in: str = ""
    audio_out: str = ""

    def as_json(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


ModelT = TypeVar("ModelT", contravariant=True)
"""What a task asks: an ``EvalModel``, or what answers in its place."""
Aggregate = Callable[[Sequence[Record]], float]


def pooled(records: Sequence[Record]) -> float:
    """100 * sum of values / sum of weights: a mean in per cent, or a pooled error rate; 0 without records."""
    weight = sum(record.weight for record in records)
    value = sum(record.value for record in records)
    if not weight:
        return 100.0 if value else 0.0
    return 100 * value / weight


def mean(records: Sequence[Record]) -> float:
    """Sum of values over sum of weights, on the scores' own scale."""
    return pooled(records) / 100


class Task(Protocol[ModelT]):
    """What a run asks. ``worst`` is the score of a question that failed for the reason given.

    ``cluster`` names what belongs together when samples are drawn for confidence intervals, ``stratum`` the part that
    they are drawn from; ``interval`` says whether the figures have one; ``further`` are figures that take several
    records at once.
    """

    interval: ClassVar[bool]

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    @property
    def judge(self) -> str: ...

    def examples(self) -> Iterable[Example]: ...

    def ask(self, model: ModelT, example: Example) -> Output: ...

    def score(self, example: Example, output: Output) -> Score: ...

    def worst(self, example: Example, failure: str) -> Score: ...

    def aggregate(self, records: Sequence[Record]) -> float: ...

    def cluster(self, record: Record) -> str: ...

    def stratum(self, record: Record) -> str: ...

    def further(self, records: Sequence[Record]) -> dict[str, float]: ...
