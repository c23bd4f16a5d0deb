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

Fields = dict[str, Any]
"""A row as its publisher wrote it: nothing in it is known before it is looked at; what does not fit is a BadRecord."""
Row = Fields | None
"""None stands for a row that cannot be read."""
UNREADABLE = "a row that cannot be read: damaged JSON, or not in UTF-8"
Options = Mapping[str, Any]
"""Of a converter, as the registry's YAML or ``--set`` gives them."""

_BETWEEN = re.compile(rb"[\s,]*")
_NEXT = re.compile(rb"\}\s*,\s*\{")
_TOKEN = re.compile(rb'["\\{}\[\]]')
_BLOCK = 1 << 20
_LONGEST = 64 << 20  # bytes of one JSON object: beyond it the array is taken to be damaged
_BOM = b"\xef\xbb\xbf"


def parse(raw: bytes) -> Row:
    """One JSON object; None where it is damaged, not in UTF-8, or holds half of a surrogate pair."""
    try:
        value = json.loads(raw.decode("utf-8"))
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # what was escaped may be no character
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _end_of_object(buffer: bytes, start: int) -> int:
    """Where the object or array at ``start`` ends, by its brackets outside of strings alone; -1: not in ``buffer``."""
    depth, position, in_string = 0, start, False
    while (match := _TOKEN.search(buffer, position)) is not None:
        token, position = match[0], match.end()
        if token == b"\\":
            position += in_string
        elif token == b'"':
            in_string = not in_string
        elif not in_string:
            depth += 1 if token in b"{[" else -1
            if depth <= 0:
                return position
    return -1


def array_rows(path: Path) -> Iterator[Row]:
    """Objects of a JSON file that holds one array.

    An object with a slip in it (a raw line break in a string, a missing colon, bytes that are no UTF-8) is None, and
    the next one is read. A file that ends within an object ends in None.

    Raises:
        InputError: no array, or a slip behind which no object can be found (a quotation mark too many).
    """
    with path.open("rb") as file:
        buffer = file.read(_BLOCK).removeprefix(_BOM).lstrip()
        if not buffer.startswith(b"["):
            raise InputError(f"{path}: a JSON array of records in UTF-8 is expected")
        position, line, divided = 1, 1, True
        while True:
            match = _BETWEEN.match(buffer, position)
            assert match is not None
            line += match[0].count(b"\n")
            divided = divided or b"," in match[0]
            position = match.end()
            if buffer.startswith(b"]", position):
                return
            bracket = buffer.startswith((b"{", b"["), position)
            end = _end_of_object(buffer, position) if bracket else -1
            if end < 0 and (bracket or position == len(buffer)):
                rest = buffer[position:]
                more = file.read(max(_BLOCK, len(rest))) if len(rest) < _LONGEST else b""
                if more:
                    buffer, position = rest + more, 0
                    continue
                if not _NEXT.search(rest):
                    yield None
                    return
            if end < 0 or not divided:
                raise InputError(
                    f"{path}, line {line}: a slip (a quotation mark too many, a missing comma) behind which no record "
                    "can be told from the next; repair it"
                )
            yield parse(buffer[position:end])
            line += buffer.count(b"\n", position, end)
            position, divided = end, False


def line_rows(path: Path) -> Iterator[Row]:
    """Objects of a JSONL file; a damaged line, or one that is not in UTF-8, is None."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            content = (line.removeprefix(_BOM) if number == 0 else line).strip()
            if content:
                yield parse(content)


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


def image_bytes(value: object, folder: Path) -> bytes:
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
