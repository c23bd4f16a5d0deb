"""Which dialogues can be spoken, and how they read then (EMOVA §4.2): English by nano's rules, Chinese by these."""

from __future__ import annotations

import re

from emova_data.mandarin.normalise import normalise
from emova_data.nano.text.spoken_text import to_spoken

_HAN = re.compile(r"[\u3400-\u9fff]")
_NOT_SPOKEN = re.compile(
    r"```|[{}<>|\\=^_~`]|https?:|www\.|\S+@\S+|\w\s*[*/+]\s*\w|[∑∫√≤≥±×÷]|\b(?:def|import|return)\b|[A-Za-z]{16,}"
)
_ZH_KEPT = re.compile(r"[^\u3400-\u9fffA-Za-z0-9 ,.?!%'，。？！、：；…·-]")


def language_of(words: str) -> str:
    """``zh`` when a fifth or more of the letters are Han characters, else ``en``."""
    letters = [c for c in words if c.isalpha()]
    return "zh" if letters and sum(bool(_HAN.match(c)) for c in letters) >= 0.2 * len(letters) else "en"


def spoken_zh(words: str, max_characters: int) -> str | None:
    """Chinese without formatting and its numbers in words, or None where code, formulas, tables or addresses would have
    to be read out."""
    if _NOT_SPOKEN.search(re.sub(r"[*_`~]{1,3}|!?\[([^\]]*)\]\([^)]*\)", r"\1", words)):
        return None
    text = re.sub(r"^\s*(?:#{1,6}|[-*+•]|\d{1,2}[.)、])\s*", "", words, flags=re.M)
    text = re.sub(r"[*_`~]{1,3}", "", text).replace("\\n", "\n")
    text = re.sub(r"[（(]([^（）()]*)[）)]", r"，\1，", text)
    text = normalise(re.sub(r"\s*\n\s*", "，", text.strip()))
    text = _ZH_KEPT.sub("", text)
    text = re.sub(r"[，、：；,]*([。？！.?!])[，、：；,]*", r"\1", text)
    text = re.sub(r"[，,：；]{2,}", "，", text).strip(" ，,：；")
    return text if _HAN.search(text) and len(text) <= max_characters else None


def spoken(words: str, max_words: int) -> str | None:
    """``words`` as they are said, or None; a Chinese text may have two characters for each word allowed."""
    if language_of(words) == "zh":
        return spoken_zh(words, 2 * max_words)
    return to_spoken(words, max_words)
