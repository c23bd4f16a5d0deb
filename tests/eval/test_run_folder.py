"""A run folder: resumable, nothing twice, failures kept; intervals and paired tests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from emova.core.errors import InputError
from emova_eval.metrics.compare import compare_records, compare_runs, comparison_table, confidence_interval
from emova_eval.suite.run_folder import UNREACHED, RunFolder, hash_model, hash_path, read_records, safe_name
from emova_eval.suite.runner import failed, figure_of, run_task
from emova_eval.suite.samples import Example, Output, Record, Score
from emova_eval.suite.scoring import METRICS, find_metric


class Spell:
    """A task that asks for its example's text back."""

    name, unit, higher_is_better, judge = "spell", "%", True, "equality"
    interval: ClassVar[bool] = True

    def __init__(self, count: int = 4, metric: str = "exact") -> None:
        self.metric, self.count = find_metric(metric), count

    def examples(self) -> Iterable[Example]:
        return [Example(f"e{i}", f"word{i}", answers=(f"word{i}",)) for i in range(self.count)]

    def ask(self, model: list[str], example: Example) -> Output:
        model.append(example.id)
        if example.id == "e1":
            raise RuntimeError("out of breath")
        return Output(example.text, audio=np.zeros(160, np.float32), sample_rate=16000)

    def score(self, example: Example, output: Output) -> Score:
        return self.metric.judge(output.text, example)

    def worst(self, example: Example, failure: str) -> Score:
        return failed(self.metric.worst(example), failure)

    def aggregate(self, records: Sequence[Record]) -> float:
        return self.metric.aggregate(records)

    def cluster(self, record: Record) -> str:
        return self.metric.cluster(record)

    def stratum(self, record: Record) -> str:
        return self.metric.stratum(record)

    def further(self, records: Sequence[Record]) -> dict[str, float]:
        return {"asked": float(len(records))}


def test_a_killed_run_goes_on_and_counts_nothing_twice(tmp_path: Path) -> None:
    asked: list[str] = []
    run_task(Spell(), asked, RunFolder(tmp_path / "r", {"model": "m"}), limit=2)
    log = tmp_path / "r" / "samples.jsonl"
    log.write_text(log.read_text() + '{"task": "spell", "id": "e2", "que')
    resumed = run_task(Spell(), asked, RunFolder(tmp_path / "r", {"model": "m"}))
    assert asked == ["e0", "e1", "e2", "e3"]
    whole = run_task(Spell(), [], RunFolder(tmp_path / "whole", {"model": "m"}))
    strip = [(r.id, r.value, r.weight, r.failure, r.output) for r in resumed]
    assert strip == [(r.id, r.value, r.weight, r.failure, r.output) for r in whole]
    assert [r.id for r in read_records(log)] == ["e0", "e1", "e2", "e3"]
    run_task(Spell(), asked, RunFolder(tmp_path / "r", {"model": "m"}))
    assert len(asked) == 4


def test_a_failure_counts_as_wrong_and_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, {})
    figure = figure_of(Spell(), run_task(Spell(), [], folder))
    assert figure.value == 75 and figure.count == 4 and figure.failures == 1
    assert "out of breath" in read_records(folder.log)[1].failure
    assert (tmp_path / "audio" / "spell" / "e0.wav").is_file()
    words = figure_of(Spell(2, "wer"), run_task(Spell(2, "wer"), [], RunFolder(tmp_path / "w", {})))
    assert words.value == 50  # the failed word is an error, the other is right


def test_a_folder_belongs_to_one_set_of_settings(tmp_path: Path) -> None:
    RunFolder(tmp_path, {"model": "a", "tasks": ["x"]})
    RunFolder(tmp_path, {"model": "a", "tasks": ["x", "y"]})
    with pytest.raises(InputError, match="another model"):
        RunFolder(tmp_path, {"model": "b"})


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    class Twice(Spell):
        def examples(self) -> Iterable[Example]:
            return [Example("e0"), Example("e0")]

    with pytest.raises(InputError, match="comes twice"):
        run_task(Twice(), [], RunFolder(tmp_path, {}))


def test_hashes_and_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = hash_path(tmp_path)
    (tmp_path / "a").write_text("y")
    assert hash_path(tmp_path) != first and hash_path(tmp_path / "none") == "missing"
    assert safe_name("a-1") == "a-1"
    assert safe_name("../x") != safe_name("..-x") and "/" not in safe_name("../../etc") and safe_name("..")[0] != "."


def test_a_models_hash_is_that_of_its_weights_not_of_its_card(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"w")
    (tmp_path / "README.md").write_text("old")
    before = hash_model(tmp_path)
    (tmp_path / "README.md").write_text("new figures")
    assert hash_model(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(b"v")
    assert hash_model(tmp_path) != before


def records(values: list[float], weights: float = 1.0, task: str = "t") -> list[Record]:
    return [Record(task, str(i), "", [], "", value, weights) for i, value in enumerate(values)]


def test_intervals_hold_the_figure_and_shrink_with_more_questions() -> None:
    few, many = records([1.0, 0.0] * 10), records([1.0, 0.0] * 200)
    low, high = confidence_interval(few)
    assert low < 50 < high and (low, high) == confidence_interval(few)
    narrow = confidence_interval(many)
    assert narrow[1] - narrow[0] < (high - low) / 2
    assert confidence_interval(records([1.0] * 5)) == (100.0, 100.0)


def test_no_draw_of_a_sum_lacks_a_part() -> None:
    mme = METRICS["mme"]
    rows = [
        Record("m", f"{part}/{picture}/{turn}", "", [], "", 1.0, 1, part, notes={"picture": picture})
        for part in ("count", "scene") for picture in "ab" for turn in (0, 1)
    ]  # fmt: skip
    assert mme.aggregate(rows) == 400
    assert confidence_interval(rows, mme.aggregate, mme.cluster, stratum=mme.stratum) == (400, 400)
    # One wrong answer: of "count" the draws are aa (100 + 50 + ...), ab, bb; "scene" stays whole.
    rows[0] = dataclasses.replace(rows[0], value=0.0)
    assert mme.aggregate(rows) == 75 + 50 + 200
    assert confidence_interval(rows, mme.aggregate, mme.cluster, stratum=mme.stratum) == (50 + 0 + 200, 400)


def test_an_interval_leaves_out_draws_without_a_figure_and_holds_it() -> None:
    def share(found: Sequence[Record]) -> float:
        return 5.0 if any(r.value for r in found) else float("nan")

    assert confidence_interval(records([1.0, 0.0, 0.0]), share) == (5.0, 5.0)


def test_paired_tests_find_a_difference_and_none_between_equals() -> None:
    a, b = records([0.0] * 40 + [1.0] * 20), records([1.0] * 30 + [0.0] * 10 + [1.0] * 20)
    found = compare_records(a, b)
    assert found.difference == pytest.approx(50) and found.significant and found.p_value < 0.01 and found.low > 0
    same = compare_records(a, a)
    assert same.difference == 0 and same.p_value == 1.0 and not same.significant
    assert found.verdict == "B is better" and same.verdict == "no clear difference"
    assert compare_records(a, b, higher_is_better=False).verdict == "A is better"
    seconds = compare_records(a, b, unit="s")
    assert seconds.difference == pytest.approx(0.5) and seconds.unit == "mean score (s)"


def test_another_question_under_the_same_id_is_not_compared() -> None:
    a = records([1.0, 0.0])
    b = [dataclasses.replace(a[0], question="something else"), a[1]]
    found = compare_records(a, b)
    assert (found.count, found.only_a, found.only_b) == (1, 1, 1)
    with pytest.raises(InputError, match="in common"):
        compare_records(a[:1], b[:1])


def test_a_question_whose_judge_was_out_of_reach_is_judged_when_the_run_goes_on(tmp_path: Path) -> None:
    record = Record("t", "1", "q", [], "said", 0.0, 1.0, failure=f"{UNREACHED} (status 503)")
    folder = RunFolder(tmp_path, {})
    folder.add(record)
    assert folder.find("t", "1") is None
    folder.add(dataclasses.replace(record, value=1.0, failure=""))
    again = RunFolder(tmp_path, {})
    found = again.find("t", "1")
    assert found is not None and found.value == 1.0 and len(read_records(again.log)) == 1
    again.add(record)  # and is not counted again
    assert [r.value for r in read_records(again.log)] == [1.0]


def test_runs_are_compared_on_common_questions(tmp_path: Path) -> None:
    for name, count in (("a", 3), ("b", 4)):
        run_task(Spell(count), [], RunFolder(tmp_path / name, {}))
    [found] = compare_runs(tmp_path / "a", tmp_path / "b")
    assert (found.count, found.only_a, found.only_b) == (3, 0, 1)
    table = comparison_table([found], str(tmp_path / "a"), str(tmp_path / "b"))
    assert "| spell | % | 66.67 | 66.67 | +0.00 |" in table and "differ in: nothing" in table
    assert "differ in: unknown" in comparison_table([found], "a", "b")
    with pytest.raises(InputError, match="no samples"):
        compare_runs(tmp_path, tmp_path / "b")


def test_a_figure_of_a_whole_set_is_not_compared_question_by_question(tmp_path: Path) -> None:
    for name in "ab":
        run_task(Spell(), [], RunFolder(tmp_path / name, {}))
    (tmp_path / "a" / "results.json").write_text(json.dumps({"figures": [{"task": "spell", "unit": "bit/s"}]}))
    with pytest.raises(InputError, match="have scores"):
        compare_runs(tmp_path / "a", tmp_path / "b")


def test_metrics_aggregate_by_their_own_rule() -> None:
    circular = METRICS["circular"]
    rows = [Record("m", id, "", [], "", value, 1) for id, value in (("1", 1.0), ("1000001", 0.0), ("2", 1.0))]
    assert circular.aggregate(rows) == 50
    assert circular.aggregate([rows[2], rows[2], rows[0], rows[1]]) == pytest.approx(200 / 3)
    mme = [Record("m", str(i), "", [], "", 1.0, 1, "count", notes={"picture": "p"}) for i in range(2)]
    assert METRICS["mme"].aggregate(mme) == 200 and METRICS["mme"].cluster(mme[0]) == "count/p"
    assert METRICS["ocrbench"].aggregate(rows) == pytest.approx(2000 / 3)
    with pytest.raises(InputError, match="unknown"):
        find_metric("magic")


@pytest.mark.parametrize("name", sorted(METRICS))
def test_no_answer_is_never_better_than_any(name: str) -> None:
    example = Example("1", "q", answers=("7",), choices=("7", "8"), group="g")
    worst = METRICS[name].worst(example)
    right = METRICS[name].judge("yes" if name == "mme" else "7", example)
    assert (worst.value <= right.value) if METRICS[name].higher_is_better else (worst.value > right.value)
    assert json.dumps(worst.notes) is not None
