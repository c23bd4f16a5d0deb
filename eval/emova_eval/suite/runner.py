"""Asking a task's questions, and turning the answers into a figure."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from emova_eval.metrics.compare import confidence_interval, further_intervals
from emova_eval.suite.run_folder import RunFolder, check_unique
from emova_eval.suite.samples import Example, Output, Record, Score, Task, mean

AskedT = TypeVar("AskedT")


@dataclass(frozen=True)
class Figure:
    """A task's figure with its 95 % interval, what it stands on, and which judge gave it.

    ``failures`` counts questions that could not be asked or judged; they are in the figure, as the worst score.
    ``extra`` are further figures of the same answers (on their own scale, shares of 1) with ``extra_intervals``;
    ``absent`` are further figures whose judge is not there, with the reason.
    """

    task: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    higher_is_better: bool
    count: int
    failures: int
    judge: str
    extra: dict[str, float] = field(default_factory=dict)
    groups: dict[str, float] = field(default_factory=dict)
    missing: str = ""
    extra_intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def missing_figure(task: str, reason: str) -> Figure:
    """The line of a task that could not run at all."""
    return Figure(task, None, None, None, "", True, 0, 0, "", missing=reason)


def ask_one(task: Task[AskedT], model: AskedT, example: Example, folder: RunFolder) -> Record:
    """Ask one question and score the answer. Whatever goes wrong is the question's failure, never the run's end."""
    begun = time.perf_counter()
    output, audio_out = Output(), ""
    try:
        output = task.ask(model, example)
        if output.audio is not None and len(output.audio):
            audio_out = folder.save_audio(task.name, example.id, output.audio, output.sample_rate)
        score = task.score(example, output)
    except (ValueError, RuntimeError, OSError, KeyError, IndexError) as error:
        score = task.worst(example, f"{type(error).__name__}: {error}"[:300])
    return Record(
        task=task.name,
        id=example.id,
        question=example.text,
        answers=list(example.answers),
        output=output.text,
        value=score.value,
        weight=score.weight,
        group=example.group,
        values={name: list(pair) for name, pair in score.values.items()},
        notes=score.notes,
        failure=score.failure,
        seconds=time.perf_counter() - begun,
        audio_in=example.audio,
        audio_out=audio_out,
    )


def run_task(
    task: Task[AskedT],
    model: AskedT,
    folder: RunFolder,
    limit: int = 0,
    advance: Callable[[Record], object] = lambda record: None,
) -> list[Record]:
    """Ask a task's first ``limit`` questions (0: all) that the folder has no answer to; returns all their records."""
    examples = list(task.examples())
    check_unique((example.id for example in examples), task.name)
    records = []
    for example in examples[: limit or None]:
        record = folder.find(task.name, example.id)
        if record is None:
            record = ask_one(task, model, example, folder)
            folder.add(record)
        records.append(record)
        advance(record)
    return records


def figure_of(task: Task, records: Sequence[Record]) -> Figure:
    """The task's figure over ``records``; without records it is missing."""
    if not records:
        return missing_figure(task.name, "no questions")
    low: float | None = None
    high: float | None = None
    value = task.aggregate(records)
    failures = sum(bool(record.failure) for record in records)
    if math.isnan(value):
        reason = f"the {len(records)} answers ({failures} failed) are too few for this figure"
        return dataclasses.replace(missing_figure(task.name, reason), count=len(records), failures=failures)
    if task.interval:
        low, high = confidence_interval(records, task.aggregate, task.cluster, stratum=task.stratum)
    extra, intervals = task.further(records), {}
    if task.interval:
        intervals = further_intervals(records, task.further, task.cluster)
    for name in sorted({name for record in records for name in record.values}):
        found = part(records, name)
        extra[name], intervals[name] = mean(found), confidence_interval(found, mean, task.cluster)
    names = sorted({record.group for record in records if record.group})
    groups = {name: task.aggregate([record for record in records if record.group == name]) for name in names}
    return Figure(
        task=task.name,
        value=value,
        low=low,
        high=high,
        unit=task.unit,
        higher_is_better=task.higher_is_better,
        count=len(records),
        failures=failures,
        judge=task.judge,
        extra=extra,
        groups=groups if len(groups) > 1 else {},
        extra_intervals=intervals,
    )


def part(records: Sequence[Record], name: str) -> list[Record]:
    """The records' further figure ``name`` as records of its own."""
    return [
        dataclasses.replace(record, value=record.values[name][0], weight=record.values[name][1])
        for record in records
        if name in record.values
    ]


def failed(metric_worst: Score, failure: str) -> Score:
    """The worst score with the reason."""
    return Score(metric_worst.value, metric_worst.weight, metric_worst.values, metric_worst.notes, failure)
