"""``emova eval codecs NAME=TOKENIZER[,DETOKENIZER] ...``: what each pair keeps, leaks and costs, in one table.

Nothing is measured here that is not measured elsewhere too: units as ``emova eval tokenizer``, words and likeness as
the task ``reconstruction``, emotions as the task ``styles``, clocks as ``emova bench codec``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

from emova.core.errors import InputError
from emova.core.writing import make_folder, write_text
from emova_eval.codecs.pairs import DEFAULTS, Pair, find_folders
from emova_eval.codecs.rows import Judges, Row, Sizes, measure_row
from emova_eval.judges.voices import find_judges
from emova_eval.suite.suite import SuiteConfig, make_emotion_judge, make_recogniser
from emova_eval.tokenizer.program import Cells, chosen_of, markdown_rows

HEARING: Cells = (
    ("units/s", "unit_rate", 1), ("bits/s", "bitrate", 0), ("used %", "used", 1), ("perplexity", "perplexity", 0),
    ("phones en %", "phone_error/en", 1), ("lookup %", "lookup_error", 1), ("voice %", "leak/voice", 0),
    ("chance", "chance/voice", 0), ("emotion %", "leak/emotion", 0), ("chance", "chance/emotion", 0),
    ("pitch %", "leak/pitch", 0), ("wait ms", "look_ahead", 0), ("core s/s", "ears_core", 3),
)  # fmt: skip
SPEAKING: Cells = (
    ("WER %", "wer", 1), ("recordings %", "recordings_percent", 1), ("naturalness", "naturalness", 2),
    ("dnsmos", "dnsmos", 2), ("utmos", "utmos", 2), ("visqol", "visqol", 2), ("speaker", "speaker", 2),
    ("steady", "speaker_renderings", 2), ("emotion %", "emotion_right", 0), ("pitch %", "pitch_percent", 0),
    ("needs units", "needs_units", 0), ("of ms", "needs_ms", 0), ("first sound ms", "first_ms", 1),
    ("core ms", "first_core_ms", 1), ("core s/s", "voice_core", 3),
)  # fmt: skip


@dataclass(frozen=True)
class CodecsConfig:
    """A side by side.

    Attributes:
        data: patterns of shards whose recordings are heard and said again; none takes the shipped fixtures.
        limit: recordings of each pattern at most; 0 takes all.
        whisper, emotion_judge: as of ``SuiteConfig``.
    """

    pairs: Sequence[Pair] = DEFAULTS
    data: Sequence[str] = ()
    limit: int = 0
    sizes: Sizes = field(default_factory=Sizes)
    whisper: str = SuiteConfig.whisper
    emotion_judge: str = ""
    output: str = "runs/codecs"


def judges_of(config: CodecsConfig) -> Judges:
    """Those that are here. Raises: InputError: the emotion judge that was asked for is not."""
    suite = SuiteConfig(whisper=config.whisper, emotion_judge=config.emotion_judge)
    try:
        recogniser, absent = make_recogniser(suite), ""
    except InputError as error:
        recogniser, absent = None, str(error)
    return Judges(recogniser, find_judges(), make_emotion_judge(suite), absent)


def run(config: CodecsConfig, judges: Judges | None = None, advance: Callable[[str], None] = print) -> list[Row]:
    """Measure all pairs; ``table.md`` and ``rows.json`` in the output's folder are written anew after each.

    Raises:
        InputError: a part or shards are missing, or a pair does not fit; all are looked for before one is measured.
    """
    for pair in config.pairs:
        find_folders(pair)
    chosen = chosen_of(config.data, config.limit)
    for reason, count in chosen.left_out.items():
        advance(f"left out {count}: {reason}")
    judges = judges or judges_of(config)
    output = make_folder(config.output)
    rows: list[Row] = []
    for pair in config.pairs:
        rows.append(measure_row(pair, chosen.utterances, config.sizes, judges, output, advance))
        write_text(output / "rows.json", json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
        write_text(output / "table.md", table(rows, judges))
    advance(table(rows, judges))
    return rows


def table(rows: Sequence[Row], judges: Judges) -> str:
    """Hearing and speaking as Markdown; what could not be measured is a dash, and a line below says why."""
    named = [((row.name, row.kind), _shown(row.figures)) for row in rows]
    lines = ["What the tokenizers hear:", "", *markdown_rows(("codec", "kind"), HEARING, named), ""]
    spoken = [((row.name,), _shown(row.figures)) for row in rows]
    lines += ["What the decoders say:", "", *markdown_rows(("codec",), SPEAKING, spoken), ""]
    reasons = [f"- {row.name}, {part}: {why}." for row in rows for part, why in row.missing.items()]
    lines += [*reasons, ""] if reasons else []
    heard = judges.recogniser.name if judges.recogniser else "nobody"
    return "\n".join([*lines, f"Words heard by {heard}{judges.sound.names}; emotions by {judges.emotion.name}.", ""])


def _shown(figures: dict[str, float]) -> dict[str, float]:
    """The figures with those that the table has on another scale."""
    found = dict(figures)
    for percent, share in (("recordings_percent", "recordings"), ("pitch_percent", "pitch_order")):
        if share in figures:
            found[percent] = 100 * figures[share]
    if "needs_units" in figures:
        found["needs_ms"] = 1000 * figures["needs_units"] / figures["unit_rate"]
    return found
