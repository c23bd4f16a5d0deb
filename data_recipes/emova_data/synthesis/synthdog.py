"""Pages of text to be read, in the manner of SynthDog (Kim et al. 2022): text in columns on paper."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.seeding import generator
from emova_data.records.records import BadRecord, Draft, Media, Record, conversation
from emova_data.sources.convert import ConvertConfig, ConvertResult, convert
from emova_data.synthesis.speech_text import language_of

if TYPE_CHECKING:
    from PIL import Image, ImageFont

QUESTIONS = {"en": "Read all the text in the picture.", "zh": "请读出图中的所有文字。"}


@dataclass(frozen=True)
class PageConfig:
    """One run.

    Attributes:
        text: a UTF-8 text file; a page takes consecutive lines or sentences from a random place.
        fonts: font files, comma-separated; they must have the text's characters.
        output, name, split: where the shards go and what they are called.
        pages: how many.
        width, height: of a page, in pixels.
        seed: of every random choice.
    """

    text: str = ""
    fonts: str = ""
    output: str = "data/sets/pages"
    name: str = "pages"
    split: str = "train"
    pages: int = 1000
    width: int = 720
    height: int = 960
    per_shard: int = 500
    seed: int = 0


def wrap(words: str, font: ImageFont.FreeTypeFont, width: float, lines: int) -> list[str]:
    """At most ``lines`` lines of ``words`` no wider than ``width`` pixels. Chinese breaks anywhere."""
    joint = "" if language_of(words) == "zh" else " "
    pieces = list(words.replace(" ", "")) if not joint else words.split()
    out: list[str] = []
    line = ""
    for piece in pieces:
        longer = f"{line}{joint}{piece}" if line else piece
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            out.append(line)
        if len(out) == lines or font.getlength(piece) > width:
            return out[:lines]
        line = piece
    return [*out, line][:lines] if line else out


def _paper(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    from PIL import Image

    grain = rng.normal(0, rng.uniform(1, 6), (height // 4, width // 4, 1))
    shade = np.linspace(0, rng.uniform(-25, 25), height // 4)[:, None, None]
    tint = rng.uniform(205, 255, 3)
    pixels = np.clip(tint + grain + shade, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def page(words: str, font_path: str, config: PageConfig, rng: np.random.Generator) -> tuple[bytes, str]:
    """JPEG bytes of a page and the text on it, in reading order. Raises: BadRecord: nothing fits."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    sheet = _paper(rng, config.width, config.height)
    draw = ImageDraw.Draw(sheet)
    margin = int(config.width * rng.uniform(0.06, 0.12))
    columns = int(rng.integers(1, 3))
    gap = margin // 2
    column = (config.width - 2 * margin - gap * (columns - 1)) / columns
    ink = tuple(int(v) for v in rng.integers(0, 90, 3))
    rest, told = words, []
    for number in range(columns):
        size = int(rng.integers(16, 34))
        font = ImageFont.truetype(font_path, size)
        step = size * float(rng.uniform(1.25, 1.7))
        count = int((config.height - 2 * margin) / step * rng.uniform(0.4, 1.0))
        lines = wrap(rest, font, column, count)
        for row, line in enumerate(lines):
            draw.text((margin + number * (column + gap), margin + row * step), line, font=font, fill=ink)
        told += lines
        used = sum(len(line.replace(" ", "")) for line in lines)
        rest = _after(rest, used)
        if not rest:
            break
    if not told:
        raise BadRecord("nothing fits on the page")
    turn = float(rng.uniform(-3, 3))
    corner = tuple(int(v) for v in rng.integers(0, 256, 3))
    sheet = sheet.rotate(turn, Image.Resampling.BICUBIC, fillcolor=corner)
    if rng.random() < 0.5:
        sheet = sheet.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.9))))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=int(rng.integers(55, 95)))
    joint = "" if language_of(words) == "zh" else " "
    return buffer.getvalue(), joint.join(told)


def _after(words: str, used: int) -> str:
    """``words`` without the first ``used`` characters that are not spaces."""
    for position, character in enumerate(words):
        if used <= 0:
            return words[position:].strip()
        used -= not character.isspace()
    return ""


def _build(number: int, lines: tuple[str, ...], fonts: tuple[str, ...], config: PageConfig) -> Record:
    rng = generator("page", config.seed, number)
    first = int(rng.integers(0, len(lines)))
    words = " ".join(lines[first : first + 40])
    content, told = page(words, fonts[int(rng.integers(0, len(fonts)))], config, rng)
    turns = [("user", QUESTIONS[language_of(words)]), ("assistant", told)]
    extra = {"task": "ocr", "language": language_of(words)}
    return Record(f"page-{number}", conversation(turns, ["0.jpg"]), (Media("0.jpg", content),), extra)


def synthesise(config: PageConfig) -> ConvertResult:
    """Draw the pages. Raises: InputError: no text, or a font that cannot be read."""
    from PIL import ImageFont

    source = Path(config.text)
    if not config.text or not source.is_file():
        raise InputError(f"text {config.text[:80]!r}: a text file is expected")
    lines = tuple(line.strip() for line in source.read_text(encoding="utf-8").splitlines() if line.strip())
    fonts = tuple(name.strip() for name in config.fonts.split(",") if name.strip())
    if not lines or not fonts:
        raise InputError("text needs words, and fonts at least one font file")
    for name in fonts:
        try:
            ImageFont.truetype(name, 20)
        except OSError:
            raise InputError(f"font {name[:80]!r}: cannot be read") from None

    def drafts() -> Iterator[Draft]:
        for number in range(config.pages):
            yield Draft(f"page-{number}", functools.partial(_build, number, lines, fonts, config))

    settings = ConvertConfig(config.per_shard)
    return convert(drafts(), Path(config.output), config.name, split=config.split, config=settings)


def main(path: Path | None, overrides: list[str]) -> int:
    """``emova data synthesise synthdog``. Raises: InputError."""
    config = load_config(PageConfig, path, overrides)
    result = synthesise(config)
    print(f"{result.records} pages in {len(result.shards)} shards in {config.output}")
    return 0
