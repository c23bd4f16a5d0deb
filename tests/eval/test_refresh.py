"""Figures in documents: replaced between their marks, the rest untouched; a document without marks is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from emova.core.errors import InputError
from emova_eval.report.refresh import END, Section, refresh, start_of


def test_what_stands_between_the_marks_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    picture = tmp_path / "emotions.png"
    picture.write_bytes(b"png")
    section = Section("nano", "emova eval nano", "| a \\1 |\n", [(picture, "Emotions heard")])
    card = tmp_path / "card" / "README.md"
    card.parent.mkdir()
    other = "<!-- figures of emova eval all -->\nkept\n" + END
    card.write_text(f"before\n{start_of('nano')}\nold\n{END}\nafter\n{other}\n")
    refresh(card, section)
    first = card.read_text()
    assert first.startswith("before\n") and "old" not in first and "| a \\1 |" in first and "kept" in first
    assert "![Emotions heard](nano-emotions.png)" in first
    assert (card.parent / "nano-emotions.png").read_bytes() == b"png"
    refresh(card, section)
    assert card.read_text() == first  # doing it twice changes nothing


def test_documents_without_marks_are_refused(tmp_path: Path) -> None:
    section = Section("nano", "c", "t")
    with pytest.raises(InputError, match="no such file"):
        refresh(tmp_path / "gone.md", section)
    (tmp_path / "a.md").write_text(start_of("nano"))
    with pytest.raises(InputError, match="end of figures"):
        refresh(tmp_path / "a.md", section)
