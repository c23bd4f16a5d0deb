"""Confidence intervals and paired tests: is a difference between two runs more than chance?

Intervals are percentile bootstraps over clusters (a question, a picture with its two questions, a question's
rotations), within strata where a figure is a sum over parts. A set drawn anew repeats some items, so that what is
counted over the whole set (entropy, codebook use) comes out too low: where the draws' bias is more than a quarter of
their spread (Efron & Tibshirani 1993, §10.3) they are moved until their mean is the figure.

Pairs are compared by the interval of the difference on the questions that both runs answered, and by a permutation test
that swaps the two runs' answers to a question (Koehn 2004; Dror et al. 2018).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emova.core.errors import InputError
from emova_eval.suite.run_folder import by_task, read_records
from emova_eval.suite.samples import Aggregate, Record, mean, pooled

DRAWS = 1000
WHOLE_SET = ("bit/s", "points over chance")  # units of figures that no single question has a score for
SLOW_DRAWS = 200


Name = Callable[[Record], str]


def _one_stratum(record: Record) -> str:
    return ""


def _clusters(records: Sequence[Record], cluster: Name) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(cluster(record), []).append(record)
    return list(groups.values())


def _picks(groups: Sequence[list[Record]], stratum: Name, draws: int, seed: int) -> np.ndarray:
    """Indices [draws, groups] of clusters drawn with replacement, each stratum from its own."""
    rng = np.random.default_rng(seed)
    strata: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        strata.setdefault(stratum(group[0]), []).append(index)
    return np.concatenate(
        [np.array(found)[rng.integers(len(found), size=(draws, len(found)))] for found in strata.values()], axis=1
    )


def _interval(drawn: np.ndarray, figure: float) -> tuple[float, float]:
    """The middle 95 % of the drawn figures, without their bias where it matters; the figure itself is in it."""
    drawn = drawn[~np.isnan(drawn)]  # a draw of failures alone has no figure
    low, high = np.percentile(drawn, [2.5, 97.5])
    bias = drawn.mean() - figure
    if abs(bias) > drawn.std() / 4 + 1e-9:
        low, high = low - bias, high - bias
    return min(float(low), figure), max(float(high), figure)


def confidence_interval(
    records: Sequence[Record],
    aggregate: Aggregate = pooled,
    cluster: Name = lambda record: record.id,
    draws: int = DRAWS,
    seed: int = 0,
    stratum: Name = _one_stratum,
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of ``aggregate``; the same for the same seed.

    Clusters are drawn within their ``stratum``, so that no part of a sum is ever without questions.
    """
    groups = _clusters(records, cluster)
    if aggregate in (pooled, mean):
        sums = np.array([[sum(r.value for r in group), sum(r.weight for r in group)] for group in groups])
        sums_DV = sums[_picks(groups, stratum, draws, seed)].sum(1)
        drawn = (100 if aggregate is pooled else 1) * sums_DV[:, 0] / np.maximum(sums_DV[:, 1], 1e-9)
    else:
        # A figure that is no plain ratio is worked out anew for each draw.
        picks = _picks(groups, stratum, min(draws, SLOW_DRAWS), seed)
        drawn = np.array([aggregate([r for index in row for r in groups[index]]) for row in picks])
    return _interval(drawn, aggregate(records))


def further_intervals(
    records: Sequence[Record], further: Callable[[Sequence[Record]], dict[str, float]], cluster: Name
) -> dict[str, tuple[float, float]]:
    """Intervals of several figures that are worked out together; a draw that lacks one of them is left out for it."""
    figures = further(records)
    if not figures:
        return {}
    groups = _clusters(records, cluster)
    picks = _picks(groups, _one_stratum, SLOW_DRAWS, 0)
    drawn = [further([r for index in row for r in groups[index]]) for row in picks]
    found = {name: np.array([one[name] for one in drawn if name in one]) for name in figures}
    return {name: _interval(found[name], figures[name]) for name in figures if len(found[name])}


@dataclass(frozen=True)
class Comparison:
    """Two runs on the questions that both answered; ``difference`` is B - A, in the task's own unit."""

    task: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    count: int
    only_a: int
    only_b: int
    higher_is_better: bool = True
    unit: str = "%"

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.significant:
            return "no clear difference"
        return "B is better" if (self.difference > 0) == self.higher_is_better else "A is better"

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero and the permutation test is below 5 %."""
        return self.p_value < 0.05 and not self.low <= 0 <= self.high


def compare_records(
    a: Sequence[Record],
    b: Sequence[Record],
    draws: int = DRAWS,
    seed: int = 0,
    higher_is_better: bool = True,
    unit: str = "%",
) -> Comparison:
    """Compare one task's records of two runs by the pooled figure in per cent, or by the mean score for other units.

    A question is common where id and words are the same. Raises: InputError: no common question.
    """
    left, right = {(r.id, r.question): r for r in a}, {(r.id, r.question): r for r in b}
    scale = 100 if unit == "%" else 1
    common = sorted(left.keys() & right.keys())
    if not common:
        raise InputError("compare: the runs have no question in common; run the same task with the same data")
    sums = np.array([[left[i].value, left[i].weight, right[i].value, right[i].weight] for i in common])

    def rates(drawn: np.ndarray) -> np.ndarray:
        weight = np.maximum(drawn[..., [1, 3]], 1e-9)
        return scale * drawn[..., [0, 2]] / weight

    rng = np.random.default_rng(seed)
    figures = rates(sums[rng.integers(len(common), size=(draws, len(common)))].sum(1))
    low, high = np.percentile(figures[:, 1] - figures[:, 0], [2.5, 97.5])
    first, second = rates(sums.sum(0))
    observed = second - first
    swap = rng.integers(2, size=(draws, len(common), 1)).astype(bool)
    flipped = np.where(swap, sums[:, [2, 3, 0, 1]], sums).sum(1)
    permuted = rates(flipped)
    # The observed arrangement is one of the permutations, so the value is never zero.
    extreme = np.sum(np.abs(permuted[:, 1] - permuted[:, 0]) >= abs(observed) - 1e-9)
    return Comparison(
        task=a[0].task,
        a=float(first),
        b=float(second),
        difference=float(observed),
        low=float(low),
        high=float(high),
        p_value=float((extreme + 1) / (draws + 1)),
        count=len(common),
        only_a=len(left.keys() - right.keys()),
        only_b=len(right.keys() - left.keys()),
        higher_is_better=higher_is_better,
        unit=unit if unit == "%" else f"mean score ({unit})" if unit else "mean score",
    )


def compare_runs(a: str | Path, b: str | Path) -> list[Comparison]:
    """Compare two run folders task by task, but for figures of a whole set.

    Raises:
        InputError: a folder is no run, or nothing is common.
    """
    tasks = []
    for folder in (Path(a), Path(b)):
        if not (folder / "samples.jsonl").is_file():
            raise InputError(f"{folder}: no samples.jsonl; give the folder of a run")
        tasks.append(by_task(read_records(folder / "samples.jsonl")))
    kinds = {figure["task"]: figure for figure in _results(Path(a)).get("figures", [])}
    common = [name for name in tasks[0] if name in tasks[1] and kinds.get(name, {}).get("unit") not in WHOLE_SET]
    if not common:
        raise InputError("compare: the runs have no task in common whose questions have scores")
    return [
        compare_records(
            tasks[0][name],
            tasks[1][name],
            higher_is_better=bool(kinds.get(name, {}).get("higher_is_better", True)),
            unit=str(kinds.get(name, {}).get("unit", "%")),
        )
        for name in common
    ]


def _results(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def settings_apart(a: str | Path, b: str | Path) -> list[str]:
    """Names of the settings in which two runs differ: model and data, judge, votes."""
    try:
        left, right = (json.loads((Path(run) / "run.json").read_text(encoding="utf-8")) for run in (a, b))
    except (OSError, ValueError):
        return ["unknown: a run.json is missing or damaged"]
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def comparison_table(found: Sequence[Comparison], a: str, b: str) -> str:
    """Markdown, one line a task."""
    lines = [
        f"A: `{a}`, B: `{b}`. Pooled scores on questions that both were asked; 95 % bootstrap interval of B - A, p of",
        f"a paired permutation test. The runs differ in: {', '.join(settings_apart(a, b)) or 'nothing'}.",
        f"Figures of a whole set ({', '.join(WHOLE_SET)}) are left out: no question has a score of its own there.",
        "",
        "| task | unit | A | B | B - A | 95 % interval | p | questions | only A | only B | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in found:
        lines.append(
            f"| {one.task} | {one.unit} | {one.a:.2f} | {one.b:.2f} | {one.difference:+.2f} "
            f"| {one.low:+.2f} to {one.high:+.2f} | {one.p_value:.3f} "
            f"| {one.count} | {one.only_a} | {one.only_b} | {one.verdict} |"
        )
    return "\n".join(lines) + "\n"


def as_json(found: Sequence[Comparison]) -> str:
    """The comparisons as JSON."""
    return json.dumps([{**vars(one), "verdict": one.verdict} for one in found], indent=2) + "\n"
