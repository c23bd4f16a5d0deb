"""Plain text to documents: what a language model reads beside speech so that its text stays as good as it was."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from emova.core.errors import InputError
from emova_data.records.documents import cut
from emova_data.records.records import BadRecord, Draft, Record, message, reject, text
from emova_data.sources.converters.rows import UNREADABLE, Options, rows_of

MAX_WORDS = 4000


def texts(folder: Path, options: Options) -> Iterator[Draft]:
    """The rows of the option ``files`` (default: all .jsonl, .json and .parquet files), each with its text in
    ``text_field`` (default text), in documents of at most ``max_words`` (default 4000; 0: whole).

    Raises:
        InputError: no file, or an option is no number.
    """
    field, most = str(options.get("text_field", "text")), str(options.get("max_words", MAX_WORDS))
    if not most.isdecimal():
        raise InputError(f"max_words={most[:20]}: give a number of words, 0 for whole texts")
    for name, row in rows_of(folder, options.get("files", ["**/*.jsonl", "**/*.json", "**/*.parquet"])):
        words = None if row is None else row.get(field)
        if not isinstance(words, str):
            yield Draft(name, reject(UNREADABLE if row is None else "no text"))
            continue
        pieces = cut(words, int(most))
        for number, piece in enumerate(pieces):
            identity = name if len(pieces) == 1 else f"{name}.{number}"
            yield Draft(identity, partial(_document, identity, piece))


def _document(identity: str, words: str) -> Record:
    if not words.strip():
        raise BadRecord("no text")
    return Record(identity, [message("document", text(words))], (), {"task": "text"})
