"""Rows, tables and plots; F0, level and tilt on sounds whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emova_eval.metrics.acoustics import EmotionClassifier, measure
from emova_eval.report.goals import Row, goals_table, write_report
from emova_eval.report.plots import plot_bars, plot_confusion
from emova_eval.suite.codec import distance, unit_distances


@pytest.mark.parametrize(
    ("value", "higher", "reached"), [(8.0, False, True), (8.1, False, False), (8.0, True, True), (None, True, False)]
)
def test_a_goal_is_reached_at_its_edge_and_a_missing_figure_is_a_miss(value, higher, reached) -> None:
    assert Row("x", value, 8, higher).reached is reached


def test_the_report_says_what_is_missing(tmp_path: Path) -> None:
    rows = [Row("words", 3.0, 8, False, "%", 10, "judge"), Row("styles", None, 75, True, "%")]
    write_report(tmp_path, rows, {"model": "m"})
    assert "not measured" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["reached"] is True
    assert goals_table(rows).count("\n") == 4
    plot_confusion(tmp_path / "a.png", np.eye(2), ["x", "y"], "t")
    plot_bars(tmp_path / "b.png", {"x": 50.0}, "t", 75)
    assert (tmp_path / "a.png").stat().st_size > 1000 and (tmp_path / "b.png").stat().st_size > 1000


def buzz(f0: float, tilt: float, level: float = 0.1, seconds: float = 1.0) -> np.ndarray:
    """Harmonics of ``f0`` Hz whose strength falls as frequency to the power ``-tilt``."""
    time = np.arange(int(16000 * seconds)) / 16000
    orders = np.arange(1, int(7000 / f0))
    wave = sum(order**-tilt * np.sin(2 * np.pi * order * f0 * time + order) for order in orders)
    return (level * wave / np.abs(wave).max()).astype(np.float32)


@pytest.mark.parametrize("f0", [90.0, 180.0, 320.0])
def test_f0_is_that_of_the_sound(f0: float) -> None:
    assert measure(buzz(f0, 1.0)).f0_median == pytest.approx(f0, rel=0.03)


def test_level_and_tilt_move_with_the_sound() -> None:
    plain, loud, dark = measure(buzz(150, 1.0)), measure(buzz(150, 1.0, 0.2)), measure(buzz(150, 2.0))
    assert loud.level - plain.level == pytest.approx(6.02, abs=0.1)
    assert dark.tilt < plain.tilt - 3 and dark.high_band < plain.high_band


def test_the_classifier_learns_what_separates() -> None:
    rng = np.random.default_rng(0)
    labels = ["neutral", "happy", "sad", "angry"] * 60
    features = rng.standard_normal((240, 8)) + 4 * np.eye(8)[[i % 4 for i in range(240)]]
    judge = EmotionClassifier().fit(features, labels)
    fresh = rng.standard_normal((240, 8)) + 4 * np.eye(8)[[i % 4 for i in range(240)]]
    assert np.mean([a == b for a, b in zip(judge.predict(fresh), labels, strict=True)]) > 0.9


def test_unit_distances_by_hand() -> None:
    assert distance(np.array([1, 2, 3, 4]), np.array([1, 2, 9, 4])) == 0.25
    groups = {
        "a": [np.array([1, 2]), np.array([1, 2])],
        "b": [np.array([3, 4]), np.array([3, 5])],
    }
    found = unit_distances(groups)
    assert found.same_sentence == 0.25 and found.same_voice == 1.0
