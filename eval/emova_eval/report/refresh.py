"""Putting a run's tables and pictures into documents, such as those of ``docs/figures``.

A document says where by two comments, and everything between them is replaced::

    <!-- figures of emova eval nano -->
    <!-- end of figures -->
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emova.core.errors import InputError
from emova.core.writing import write_text

END = "<!-- end of figures -->"


@dataclass(frozen=True)
class Section:
    """What goes into a document.

    Attributes:
        task: of ``emova eval``; the first comment names it.
        command: that gave the figures.
        table: Markdown.
        pictures: (file, description).
    """

    task: str
    command: str
    table: str
    pictures: Sequence[tuple[Path, str]] = ()


def start_of(task: str) -> str:
    """The comment before a task's figures."""
    return f"<!-- figures of emova eval {task} -->"


def find_place(document: str | Path, task: str) -> tuple[str, re.Match[str]]:
    """A document's text, and where a task's figures go; asked before a long run too.

    Raises:
        InputError: the document is missing, or lacks the two comments.
    """
    document, start = Path(document), start_of(task)
    if not document.is_file():
        raise InputError(f"{document}: no such file")
    text = document.read_text(encoding="utf-8")
    found = list(re.finditer(re.escape(start) + r"\n.*?" + re.escape(END), text, re.DOTALL))
    if len(found) != 1:
        raise InputError(f"{document}: needs the lines {start} and {END} once")
    return text, found[0]


def refresh(document: str | Path, section: Section) -> None:
    """Replace the section's figures in a document; pictures go beside it. Raises: as ``find_place``."""
    document = Path(document)
    text, place = find_place(document, section.task)
    parts = [start_of(section.task), "", f"`{section.command}` gave:", "", section.table.strip(), ""]
    for picture, said in section.pictures:
        name = f"{section.task}-{picture.name}"
        shutil.copyfile(picture, document.parent / name)
        parts += [f"![{said}]({name})", ""]
    write_text(document, text[: place.start()] + "\n".join([*parts, END]) + text[place.end() :])
