"""Pictures of sound as SVG and PNG inside the page, drawn with the page's own colours, so that they fit light and dark.

Shape letters: T samples, F frames, M mel bins.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from emova.speech.features import LogMel, MelConfig
from emova_app.demo.pitch import HOP_SECONDS, MAX_F0, MIN_F0

GUIDES = (100, 200, 400)  # Hz

# From silence to loud: night blue, teal, sand, white. Even steps of lightness.
_COLOURS = np.array([(16, 22, 36), (20, 60, 82), (22, 111, 117), (86, 163, 132), (196, 208, 152), (250, 244, 224)])


@lru_cache(maxsize=4)
def _mel(sample_rate: int) -> LogMel:
    hop = int(HOP_SECONDS * sample_rate)
    return LogMel(MelConfig(sample_rate, n_fft=4 * hop, hop_length=hop, n_mels=64, f_max=min(8000, sample_rate / 2)))


@torch.inference_mode()
def mel_image(samples: np.ndarray, sample_rate: int) -> str:
    """The mel spectrogram of ``[T]`` samples as a data URL of a PNG, low frequencies at the bottom."""
    from PIL import Image

    mel_MF = _mel(sample_rate)(torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None])[0].numpy()
    if not mel_MF.size:
        mel_MF = np.zeros((64, 1), np.float32)
    top = mel_MF.max()
    shade_MF = ((mel_MF - top + 1.2) / 1.2).clip(0, 1)  # the loudest 48 dB
    image = Image.fromarray((shade_MF[::-1] * 255).astype(np.uint8), mode="P")
    ramp = np.linspace(0, len(_COLOURS) - 1, 256)
    palette = np.stack([np.interp(ramp, range(len(_COLOURS)), _COLOURS[:, channel]) for channel in range(3)], axis=1)
    image.putpalette(palette.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def f0_curve(f0_F: np.ndarray, label: str = "") -> str:
    """F0 over time as an SVG on a logarithmic scale of 60 to 500 Hz."""
    height = 64.0

    def level(hertz: float) -> float:
        return height * (1 - math.log(hertz / MIN_F0) / math.log(MAX_F0 / MIN_F0))

    width = max(len(f0_F), 1)
    lines = "".join(
        f'<line class="em-guide" x1="0" x2="{width}" y1="{level(hertz):.1f}" y2="{level(hertz):.1f}"/>'
        for hertz in GUIDES
    )
    pieces: list[str] = []
    piece: list[str] = []
    before = math.nan
    for frame, hertz in enumerate([*f0_F, math.nan]):
        if not abs(hertz / before - 1) < 0.15:  # a jump, or no voice before or now
            if len(piece) > 3:
                pieces.append(" ".join(piece))
            piece = []
        before = hertz
        if not math.isnan(hertz):
            piece.append(f"{frame},{level(min(max(hertz, MIN_F0), MAX_F0)):.1f}")
    curves = "".join(f'<polyline points="{points}"/>' for points in pieces)
    median = np.nanmedian(f0_F) if np.isfinite(f0_F).any() else math.nan
    said = "no voice found" if math.isnan(median) else f"F0 {median:.0f} Hz in the middle"
    return (
        f'<svg class="em-f0" viewBox="0 0 {width} {height:g}" preserveAspectRatio="none" role="img" '
        f'aria-label="{html.escape(label)} {said}">{lines}{curves}</svg>'
    )


def waterfall(bars: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], total: float, mark: float) -> str:
    """Where the time went: rows of bars from 0 to ``total`` s, and a line at ``mark``, the first sound.

    Args:
        bars: name, kind (a colour) and spans in s of each row.
    """
    total = max(total, 1e-3)
    rows = []
    for name, kind, spans in bars:
        drawn = "".join(
            f'<i class="em-span em-{kind}" style="left:{100 * start / total:.2f}%;'
            f'width:{max(0.4, 100 * (end - start) / total):.2f}%"></i>'
            for start, end in spans
        )
        spent = sum(end - start for start, end in spans)
        rows.append(
            f'<div class="em-row"><span>{html.escape(name)}</span><div class="em-lane">{drawn}</div>'
            f"<b>{1000 * spent:.0f} ms</b></div>"
        )
    line = (
        f'<div class="em-row em-axis"><span>first sound</span><div class="em-lane">'
        f'<i class="em-mark" style="left:{100 * mark / total:.2f}%"></i></div><b>{1000 * mark:.0f} ms</b></div>'
    )
    return f'<div class="em-waterfall">{"".join(rows)}{line}</div>'


def unit_strip(units: Sequence[int], codebook_size: int, unit_rate: float) -> str:
    """Units as a row of coloured cells, equal units in equal colours, each with when it begins."""
    cells = "".join(
        f'<i style="--h:{360 * (unit * 0.618034 % 1):.0f}" title="{1000 * index / unit_rate:.0f} ms: {unit}">{unit}</i>'
        for index, unit in enumerate(units)
    )
    label = f"{len(units)} of {codebook_size} kinds of units"
    return f'<div class="em-units" role="group" tabindex="0" aria-label="{label}">{cells}</div>'
