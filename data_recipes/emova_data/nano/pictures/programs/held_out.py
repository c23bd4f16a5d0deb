"""Programs that only the test's pictures are drawn by: Vega-Lite (charts), Graphviz (tables), SVG by librsvg (all)."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
from typing import Literal, get_args
from xml.etree import ElementTree

from PIL import Image

from emova.core.errors import InputError
from emova_data.nano.pictures import canvas
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.canvas import Rng
from emova_data.nano.pictures.drawn import Drawn
from emova_data.nano.pictures.programs.content import Content, finished
from emova_data.nano.pictures.regions import Box

_Theme = Literal["excel", "ggplot2", "quartz", "vox", "fivethirtyeight", "latimes", "urbaninstitute"]
_THEMES: tuple[_Theme, ...] = get_args(_Theme)

KINDS = {"vega": ("charts",), "graphviz": ("tables",), "svg": ("charts", "tables", "price_tags", "signs")}


def _run(command: list[str], text: str, package: str) -> bytes:
    """What a program makes of ``text``. Raises: InputError: it is not installed, or fails."""
    try:
        return subprocess.run(command, input=text.encode(), capture_output=True, check=True, timeout=60).stdout
    except FileNotFoundError:
        raise InputError(f"{command[0]} is not installed; install Debian's {package}") from None
    except subprocess.SubprocessError as error:
        raise InputError(f"{command[0]} failed ({type(error).__name__})") from None


def _everywhere(content: Content, image: Image.Image) -> list[list[Box]]:
    """Tests need no regions: each row lies somewhere in the picture."""
    whole: Box = (0.0, 0.0, float(image.width), float(image.height))
    return [[whole, whole] for _ in content.rows]


def draw_vega(content: Content, rng: Rng) -> Drawn:
    """A chart by Vega-Lite in one of its themes. Raises: InputError: vl-convert-python is not installed."""
    try:
        import vl_convert
    except ImportError:
        raise InputError("vl-convert-python is not installed; pip install vl-convert-python") from None
    lying = bool(rng.random() < 0.5)
    names = {"field": "label", "type": "nominal", "sort": None, "title": None, "axis": {"labelAngle": 0}}
    numbers: dict[str, object] = {"field": "value", "type": "quantitative", "title": None}
    layer: list[dict[str, object]] = [{"mark": "bar"}]
    if rng.random() < 0.7:
        layer.append({"mark": {"type": "text", "dx": 9 if lying else 0, "dy": 0 if lying else -8, "fontSize": 15},
                      "encoding": {"text": {"field": "value"}}})  # fmt: skip
    spec = {
        "data": {"values": [{"label": label, "value": int(value)} for label, value in content.rows]},
        "width": int(rng.integers(170, 300)), "height": int(rng.integers(150, 260)),
        "encoding": {"x": numbers if lying else names, "y": names if lying else numbers},
        "layer": layer,
        "config": {
            "axis": {"labelFontSize": int(rng.integers(13, 18)), "labelColor": "black", "labelFont": "sans-serif"},
            "background": "white",
        },
    }  # fmt: skip
    theme = _THEMES[int(rng.integers(len(_THEMES)))]
    png = vl_convert.vegalite_to_png(json.dumps(spec), theme=theme, scale=1.0)
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return finished(content, image, _everywhere(content, image))


def draw_graphviz(content: Content, rng: Rng) -> Drawn:
    """A table as Graphviz sets its record labels."""
    shade = _pale(rng, 200)
    font = str(rng.choice(["Helvetica", "Times", "Courier"]))
    rows = list(content.rows)
    if rng.random() < 0.5:
        rows.insert(0, ("Name", "Points"))
    body = "".join(
        f'<tr><td bgcolor="{shade if number % 2 else "white"}">{name}</td><td>{points}</td></tr>'
        for number, (name, points) in enumerate(rows)
    )
    label = f'<table border="0" cellborder="1" cellspacing="0" cellpadding="{int(rng.integers(4, 12))}">{body}</table>'
    text = f'graph {{ a [shape=plain fontname="{font}" fontsize={int(rng.integers(20, 30))} label=<{label}>] }}'
    image = Image.open(io.BytesIO(_run(["dot", "-Tpng"], text, "graphviz"))).convert("RGB")
    return finished(content, image, _everywhere(content, image))


def svg(content: Content, rng: Rng) -> str:
    """The content as a drawing of shapes and words."""
    font = str(rng.choice(["serif", "sans-serif", "monospace"]))
    paper = _pale(rng, 225)
    parts = {"charts": _svg_chart, "tables": _svg_table, "price_tags": _svg_tag, "signs": _svg_sign}
    body = parts[content.kind](content, rng)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="320" height="280" font-family="{font}">'
            f'<rect width="320" height="280" fill="{paper}"/>{body}</svg>')  # fmt: skip


def _text(x: float, y: float, words: str, size: float, fill: str = "#111", anchor: str = "middle") -> str:
    return (f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size:.0f}" fill="{fill}" text-anchor="{anchor}">'
            f"{html.escape(words)}</text>")  # fmt: skip


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def _pale(rng: Rng, darkest: int) -> str:
    red, green, blue = (int(part) for part in rng.integers(darkest, 256, 3))
    return _hex((red, green, blue))


def _svg_chart(content: Content, rng: Rng) -> str:
    most, step = max(content.values), 290 / len(content.rows)
    parts = []
    for number, (label, value) in enumerate(content.rows):
        x, tall = 15 + step * (number + 0.5), 190 * int(value) / most
        left, wide = x - step * 0.32, step * 0.64
        parts.append(
            f'<rect x="{left:.0f}" y="{240 - tall:.0f}" width="{wide:.0f}" height="{tall:.0f}" rx="3" '
            f'fill="{_hex(canvas.vivid(rng))}" stroke="#333"/>'
        )
        parts += [_text(x, 234 - tall, value, 20), _text(x, 264, label, min(20, step / 4.6))]
    return "".join(parts)


def _svg_table(content: Content, rng: Rng) -> str:
    step = 260 / (len(content.rows) + 1)
    first = 10 + step * 0.65
    parts = [_text(40, first, "Name", 22, "#800", "start"), _text(280, first, "Points", 22, "#800", "end")]
    for number, (name, points) in enumerate(content.rows, 1):
        y = 10 + step * number
        parts.append(f'<line x1="20" x2="300" y1="{y:.0f}" y2="{y:.0f}" stroke="#888"/>')
        parts += [_text(40, y + step * 0.65, name, 26, anchor="start"), _text(280, y + step * 0.65, points, 26,
                                                                              anchor="end")]  # fmt: skip
    return "".join(parts)


def _svg_tag(content: Content, rng: Rng) -> str:
    (word, price), colour = content.rows[0], canvas.vivid(rng)
    ink = _hex(canvas.ink_on(rng, colour))
    return (
        f'<path d="M20 140 L80 40 L300 40 L300 240 L80 240 Z" fill="{_hex(colour)}"/>'
        '<circle cx="62" cy="140" r="9" fill="#fff"/>'
        f"{_text(190, 115, word, 34, ink)}{_text(190, 190, price, 54, ink)}"
    )


def _svg_sign(content: Content, rng: Rng) -> str:
    name, shown = content.rows[0]
    colour = v.SIGN_COLOURS[name]
    ink = _hex(canvas.ink_on(rng, colour))
    words = shown.split(" ")
    size = min(64.0, 230 / (0.72 * max(map(len, words))))
    lines = "".join(_text(160, 140 + size * 0.35 + size * (number - (len(words) - 1) / 2), word, size, ink)
                    for number, word in enumerate(words))  # fmt: skip
    plate = f'fill="{_hex(colour)}" stroke="#222" stroke-width="4"'
    return f'<rect x="20" y="30" width="280" height="220" rx="26" {plate}/>{lines}'


def draw_svg(content: Content, rng: Rng) -> Drawn:
    """Any kind as SVG, rendered by librsvg."""
    text = svg(content, rng)
    assert ElementTree.fromstring(text) is not None and not re.search(r"NaN", text)
    image = Image.open(io.BytesIO(_run(["rsvg-convert"], text, "librsvg2-bin"))).convert("RGB")
    return finished(content, image, _everywhere(content, image))
