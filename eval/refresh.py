"""Putting a run's tables and pictures into documents: the README, a model's card.

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

from emova.errors import InputError
from eval.runfolder import write_text

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

    @property
    def start(self) -> str:
        """The comment before the figures."""
        return f"<!-- figures of emova eval {self.task} -->"


def refresh(document: str | Path, section: Section) -> None:
    """Replace the section's figures in a document; pictures go to ``figures`` beside it.

    Raises:
        InputError: the document is missing, or lacks the two comments.
    """
    document = Path(document)
    if not document.is_file():
        raise InputError(f"{document}: no such file")
    text = document.read_text(encoding="utf-8")
    place = re.compile(re.escape(section.start) + r"\n.*?" + re.escape(END), re.DOTALL)
    if len(place.findall(text)) != 1:
        raise InputError(f"{document}: needs the lines {section.start} and {END} once")
    parts = [section.start, "", f"`{section.command}` gave:", "", section.table.strip(), ""]
    for picture, said in section.pictures:
        name = Path("figures") / f"{section.task}-{picture.name}"
        (document.parent / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(picture, document.parent / name)
        parts += [f"![{said}]({name.as_posix()})", ""]
    content = "\n".join([*parts, END])
    write_text(document, place.sub(lambda match: content, text))
