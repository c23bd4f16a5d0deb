"""Rows of JSON arrays, JSONL and Parquet files, read one at a time however large the file is."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from emova.core.errors import InputError
from emova_data.records.records import BadRecord, read_member

Row = dict[str, Any] | None
"""None stands for a row that cannot be read."""

_BETWEEN = re.compile(r"[\s,]*")
_BLOCK = 1 << 20
_LONGEST = 64 << 20  # characters of one JSON object: beyond it the array is taken to be damaged


def array_rows(path: Path) -> Iterator[Row]:
    """Objects of a JSON file that holds one array. A file cut short ends in None."""
    decoder = json.JSONDecoder()
    with path.open(encoding="utf-8", errors="replace") as file:
        buffer = file.read(_BLOCK).lstrip("\ufeff \t\r\n")
        if not buffer.startswith("["):
            raise InputError(f"{path}: a JSON array of records is expected")
        position = 1
        while True:
            match = _BETWEEN.match(buffer, position)
            assert match is not None
            position = match.end()
            if buffer.startswith("]", position):
                return
            try:
                value, position = decoder.raw_decode(buffer, position)
            except json.JSONDecodeError:
                # Either the object goes on in the next block, or it is damaged.
                rest = buffer[position:]
                more = file.read(max(_BLOCK, len(rest))) if len(rest) < _LONGEST else ""
                if not more:
                    yield None
                    return
                buffer, position = rest + more, 0
                continue
            yield value if isinstance(value, dict) else None


def line_rows(path: Path) -> Iterator[Row]:
    """Objects of a JSONL file; a damaged line is None."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                try:
                    value = json.loads(line)
                except json.JSONDecodeError:
                    value = None
                yield value if isinstance(value, dict) else None


def parquet_rows(path: Path, batch: int = 64) -> Iterator[Row]:
    """Rows of a Parquet file as dicts. Raises: InputError: pyarrow is not installed, or no such file can be read."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(f"{path.name}: Parquet files need pyarrow; pip install pyarrow") from None
    try:
        table = parquet.ParquetFile(path)
    except (OSError, ValueError):
        raise InputError(f"{path}: not a Parquet file, or cut short; fetch it again") from None
    for part in table.iter_batches(batch_size=batch):
        yield from part.to_pylist()


def rows_of(folder: Path, patterns: str | list[str]) -> Iterator[tuple[str, Row]]:
    """(name, row) of all files below ``folder`` that fit the glob patterns, in the order of their names.

    Raises:
        InputError: no file fits.
    """
    wanted = [patterns] if isinstance(patterns, str) else patterns
    paths = sorted({path for pattern in wanted for path in folder.glob(pattern) if path.is_file()})
    if not paths:
        raise InputError(f"{folder}: no file {' or '.join(wanted)}; fetch the source, or give its folder by --from")
    readers = {".json": array_rows, ".jsonl": line_rows, ".parquet": parquet_rows}
    for path in paths:
        if path.suffix not in readers:
            raise InputError(f"{path}: .json, .jsonl or .parquet is expected")
        stem = path.relative_to(folder).with_suffix("").as_posix()
        for number, row in enumerate(readers[path.suffix](path)):
            yield f"{stem}/{number}", row


def image_bytes(value: Any, folder: Path) -> bytes:
    """A picture's bytes from a path, raw bytes, or the ``{"bytes", "path"}`` of Parquet files. Raises: BadRecord."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return read_member(folder, value)
    if isinstance(value, Mapping):
        if isinstance(value.get("bytes"), bytes):
            return value["bytes"]
        if isinstance(value.get("base64"), str):
            try:
                return base64.b64decode(value["base64"], validate=True)
            except ValueError:
                raise BadRecord("an image that cannot be decoded") from None
        if isinstance(value.get("path"), str):
            return read_member(folder, value["path"])
    raise BadRecord("an image that is neither a path nor bytes")
