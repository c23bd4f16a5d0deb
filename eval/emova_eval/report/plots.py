"""The evaluation's plots."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emova.core.writing import staged_output


def plot_confusion(path: Path, matrix_NN: np.ndarray, labels: Sequence[str], title: str) -> None:
    """A confusion matrix (rows: asked, columns: heard), in per cent of each row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    share = 100 * matrix_NN / np.maximum(matrix_NN.sum(1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(4.6, 4.2), dpi=120)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for i, j in np.ndindex(*share.shape):
        axes.text(j, i, f"{share[i, j]:.0f}", ha="center", va="center", color="white" if share[i, j] > 55 else "black")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("heard")
    axes.set_ylabel("asked")
    axes.set_title(title, fontsize=10)
    figure.colorbar(image, ax=axes, label="% of the row", fraction=0.046)
    figure.tight_layout()
    with staged_output(path) as file:
        figure.savefig(file, format="png")
    plt.close(figure)


def plot_bars(path: Path, shares: dict[str, float], title: str, goal: float) -> None:
    """Horizontal bars in per cent with the goal as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = sorted(shares)
    figure, axes = plt.subplots(figsize=(5.6, 0.36 * len(names) + 1.2), dpi=120)
    axes.barh(
        names, [shares[name] for name in names], color=["#4477aa" if shares[n] >= goal else "#cc7744" for n in names]
    )
    axes.axvline(goal, color="black", linewidth=1, linestyle="--", label=f"goal {goal:g} %")
    axes.set_xlim(0, 100)
    axes.set_xlabel("right, %")
    axes.set_title(title, fontsize=10)
    axes.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    with staged_output(path) as file:
        figure.savefig(file, format="png")
    plt.close(figure)


def plot_histogram(path: Path | io.BytesIO, values: Sequence[float], title: str) -> None:
    """How scores are spread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(4.2, 2.4), dpi=100)
    axes.hist(values, bins=20, color="#4477aa")
    axes.set_xlabel("score of a question")
    axes.set_ylabel("questions")
    axes.set_title(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, format="png")
    plt.close(figure)
