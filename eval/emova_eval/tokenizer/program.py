"""``emova eval tokenizer NAME ...``: a row for each speech tokenizer, whatever its kind, on the same recordings.

Columns: bit rate and the codebook's use, phones and tones read wrongly, what probes tell of the speaker, how many units
change with the voice and the emotion, speed and look-ahead. A second table sets the units beside k-means units of the
same encoder and beside raw features (EMOVA's claim is that quantised semantic units leave the style behind, section
3.2).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from emova.checkpoint.loading import find_part
from emova.checkpoint.registry import load_tokenizer
from emova.core.errors import InputError
from emova.core.writing import make_folder, write_text
from emova_eval.tokenizer import measures
from emova_eval.tokenizer.utterances import Chosen, Utterance, fixtures, shards

COLUMNS = (
    ("units/s", "unit_rate", 1), ("bits/s", "bitrate", 0), ("used %", "used", 1), ("perplexity", "perplexity", 0),
    ("shared %", "used/shared", 1), ("words en %", "word_error/en", 1), ("chars zh %", "word_error/zh", 1),
    ("phones en %", "phone_error/en", 1), ("phones zh %", "phone_error/zh", 1),
    ("tones zh %", "tone_error/zh", 1), ("lookup %", "lookup_error", 1), ("voice %", "leak/voice", 0),
    ("gender %", "leak/gender", 0), ("emotion %", "leak/emotion", 0), ("pitch %", "leak/pitch", 0),
    ("RTF", "rtf", 3), ("wait ms", "look_ahead", 0),
)  # fmt: skip
METHOD_COLUMNS = (
    ("voice %", "leak/voice", 0), ("chance", "chance/voice", 0), ("gender %", "leak/gender", 0),
    ("chance", "chance/gender", 0), ("emotion %", "leak/emotion", 0), ("chance", "chance/emotion", 0),
    ("pitch R2 %", "leak/pitch", 0), ("other voice", "change/voice", 0), ("other emotion", "change/emotion", 0),
    ("other sentence", "change/sentence", 0),
)  # fmt: skip
Cells = Sequence[tuple[str, str, int]]


@dataclass(frozen=True)
class TokenizerFigures:
    """What was measured of one tokenizer, figures by name; ``methods`` are those of units and what is set beside."""

    name: str
    kind: str
    figures: dict[str, float]
    methods: dict[str, dict[str, float]]


def evaluate(name: str, utterances: Sequence[Utterance], advance: Callable[[str], None] = print) -> TokenizerFigures:
    """All figures of the tokenizer ``name``: a folder, or a checkpoint that has one. Raises: InputError."""
    folder = find_part(name, "speech_tokenizer")
    tokenizer = load_tokenizer(folder)
    advance(f"{name}: units of {len(utterances)} recordings")
    with torch.inference_mode():
        heard = measures.Heard(tokenizer, utterances)
        figures = {"unit_rate": tokenizer.unit_rate, "codebook": float(tokenizer.codebook_size)}
        figures |= measures.cost(tokenizer, heard, utterances) | measures.use_by_language(heard, utterances)
        figures |= measures.phone_errors(tokenizer, heard, utterances)
        figures |= measures.read_errors(tokenizer, folder, heard, utterances)
        longest = max(utterances, key=lambda each: each.seconds)
        figures["look_ahead"], figures["look_ahead_longest"] = measures.look_ahead(tokenizer, longest.samples)
    figures["lookup_error"] = measures.lookup_error(heard, utterances, tokenizer.unit_rate)
    methods = measures.by_method(tokenizer, heard, utterances, advance)
    figures |= methods["units"]
    kind = str(getattr(getattr(tokenizer, "config", None), "kind", type(tokenizer).__name__))
    return TokenizerFigures(name, kind, figures, methods)


def table(found: Sequence[TokenizerFigures]) -> str:
    """Both tables as Markdown; a figure that these recordings do not give is a dash."""
    lines = markdown_rows(("tokenizer", "kind"), COLUMNS, [((each.name, each.kind), each.figures) for each in found])
    rows = [((each.name, method), figures) for each in found for method, figures in each.methods.items()]
    return "\n".join([*lines, "", *markdown_rows(("tokenizer", "what the probe sees"), METHOD_COLUMNS, rows), ""])


def markdown_rows(
    heads: tuple[str, ...], columns: Cells, rows: Sequence[tuple[tuple[str, ...], dict[str, float]]]
) -> list[str]:
    """The lines of a Markdown table: names, then figures; one that is not there is a dash."""
    lines = [f"| {' | '.join((*heads, *(head for head, _, _ in columns)))} |"]
    lines.append(f"|{' --- |' * (len(heads) + len(columns))}")
    for names, figures in rows:
        cells = [_cell(figures.get(key, math.nan), digits) for _, key, digits in columns]
        lines.append(f"| {' | '.join((*names, *cells))} |")
    return lines


def _cell(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def chosen_of(data: Sequence[str], limit: int) -> Chosen:
    """The shards that ``data`` names, or the fixtures. Raises: InputError."""
    if data:
        return shards(data, limit)
    chosen = fixtures()
    if limit:
        chosen.utterances = chosen.utterances[:: max(1, len(chosen.utterances) // limit)][:limit]
    return chosen


def run(
    names: Sequence[str], data: Sequence[str], limit: int, out: str, advance: Callable[[str], None] = print
) -> list[TokenizerFigures]:
    """Measure, print, and write ``tokenizers.md`` and ``tokenizers.json`` into ``out`` where that is given.

    Raises:
        InputError: a tokenizer or shards are missing.
    """
    if twice := {name for name in names if list(names).count(name) > 1}:
        raise InputError(f"{sorted(twice)[0]}: named twice; give each tokenizer once")
    chosen = chosen_of(data, limit)
    for reason, count in chosen.left_out.items():
        advance(f"left out {count}: {reason}")
    found = [evaluate(name, chosen.utterances, advance) for name in names]
    text = table(found)
    advance(text)
    if out:
        folder = make_folder(out)
        write_text(folder / "tokenizers.md", text)
        rows = [
            {
                "tokenizer": each.name,
                "kind": each.kind,
                **_plain(each.figures),
                "methods": {name: _plain(figures) for name, figures in each.methods.items()},
            }
            for each in found
        ]
        write_text(folder / "tokenizers.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
        advance(f"written: {Path(out) / 'tokenizers.md'}")
    return found


def _plain(figures: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 4) for name, value in figures.items()}
