"""Charts and tables by matplotlib: its own styles, lying and standing bars, grids, value labels or none, titles."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import Rng
from emova_data.nano.pictures.drawn import Drawn
from emova_data.nano.pictures.programs.content import Content, finished
from emova_data.nano.pictures.regions import Box

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase

_PLACES: tuple[Literal["center", "left", "right"], ...] = ("center", "left", "right")
_TITLES = ("", "", "", "Sales", "How many?", "Count", "Results", "Survey", "This week", "Overview")


def _styles() -> list[str]:
    import matplotlib.style

    return ["default", "default", *(name for name in matplotlib.style.available if not name.startswith("_"))]


def draw(content: Content, rng: Rng) -> Drawn:
    """The content in a style that is drawn."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    styles = _styles()
    style = styles[int(rng.integers(len(styles)))]
    family = str(rng.choice(["DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "sans-serif"]))
    size = float(rng.uniform(11, 20))
    with mpl.style.context([style, {"font.family": family, "font.size": size}]):
        inches = (float(rng.uniform(3.6, 6.4)), float(rng.uniform(3.2, 4.8)))
        figure = Figure(figsize=inches, dpi=100, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        parts = _chart(content, axes, rng) if content.kind == "charts" else _table(content, axes, rng)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        height = canvas.get_width_height()[1]
        renderer = canvas.get_renderer()
        boxes = [[_box(part, renderer, height) for part in own] for own in parts]
    return finished(content, Image.open(buffer).convert("RGB"), boxes)


def _box(part: Artist, renderer: RendererBase, height: int) -> Box:
    extent = part.get_window_extent(renderer)
    return extent.x0, height - extent.y1, extent.x1, height - extent.y0


def _chart(content: Content, axes: Axes, rng: Rng) -> list[list[Artist]]:
    """Draws bars; what shows each."""
    labels, values = [label for label, _ in content.rows], content.values
    lying = bool(rng.random() < 0.4)
    colour: tuple[float, ...] | list[tuple[float, ...]] | None = None
    if rng.random() < 0.4:
        colour = [tuple(rng.uniform(0.1, 0.9, 3)) for _ in labels]
    elif rng.random() < 0.5:
        colour = tuple(rng.uniform(0.1, 0.9, 3))
    width = float(rng.uniform(0.45, 0.9))
    bars = axes.barh(labels, values, height=width, color=colour) if lying else axes.bar(labels, values, width,
                                                                                          color=colour)  # fmt: skip
    if lying and rng.random() < 0.6:
        axes.invert_yaxis()
    written: Sequence[Artist] = []
    if rng.random() < 0.6:
        written = axes.bar_label(bars, padding=2)
        (axes.set_xlim if lying else axes.set_ylim)(0, max(values) * 1.15)
    along, across = (axes.xaxis, axes.yaxis) if lying else (axes.yaxis, axes.xaxis)
    if not written or rng.random() < 0.5:
        top = max(values) + 1
        along.set_ticks(np.arange(0, top + 1, 1 if top < 7 or rng.random() < 0.4 else 2))
    else:
        along.set_ticks([])
    if rng.random() < 0.4:
        axes.grid(axis="x" if lying else "y", alpha=0.6)
        axes.set_axisbelow(True)
    if title := str(rng.choice(_TITLES)):
        axes.set_title(title)
    if rng.random() < 0.3:
        along.set_label_text("number")
    axes.figure.canvas.draw()
    ticks = [label for label in across.get_ticklabels() if label.get_text() in labels]
    by_text = {label.get_text(): label for label in ticks}
    return [
        [by_text[label], bar, *written[number : number + 1]]
        for number, (label, bar) in enumerate(zip(labels, bars, strict=True))
    ]


def _table(content: Content, axes: Axes, rng: Rng) -> list[list[Artist]]:
    """Draws a table; the cells of each row."""
    axes.axis("off")
    headed = bool(rng.random() < 0.6)
    head = [("Name", "Points"), ("Player", "Score"), ("name", "points")][int(rng.integers(3))]
    made = axes.table(
        cellText=[list(row) for row in content.rows],
        colLabels=list(head) if headed else None,
        loc="center",
        cellLoc=_PLACES[int(rng.integers(len(_PLACES)))],
    )
    made.auto_set_font_size(False)
    made.set_fontsize(float(rng.uniform(14, 22)))
    made.scale(1, float(rng.uniform(2.0, 3.2)))
    shade = tuple(rng.uniform(0.75, 1.0, 3))
    first = int(headed)
    for (row, _), cell in made.get_celld().items():
        if (row % 2 == 0 and rng.random() < 0.8) or (headed and row == 0):
            cell.set_facecolor(shade)
            cell.get_text().set_color("black")
        else:
            cell.set_facecolor("white")
            cell.get_text().set_color("black")
    axes.figure.canvas.draw()
    return [[made[number + first, 0], made[number + first, 1]] for number in range(len(content.rows))]


KINDS = ("charts", "tables")
assert v.TOP_BAR <= 12, "the ticks are laid for small numbers"
