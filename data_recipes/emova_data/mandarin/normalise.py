"""Chinese text with its numbers, dates, money and units written as they are read, by wetext (WeTextProcessing's rules).

What its rules read wrongly is put right before: a hyphen inside a name such as ``GPT-4`` is no minus, and a decimal in
front of letters that are no unit is no date.
"""

from __future__ import annotations

import functools
import re
from typing import Protocol

from emova.core.errors import InputError

_HYPHEN_IN_NAME = re.compile(r"(?<=[A-Za-z])-(?=\d)")
_DECIMAL_BEFORE_LETTERS = re.compile(r"(\d+)\.(\d+)(?=\s?([A-Za-z]+))")
_UNITS = (
    "kg",
    "g",
    "mg",
    "km",
    "m",
    "cm",
    "mm",
    "ml",
    "l",
    "kw",
    "w",
    "kwh",
    "hz",
    "khz",
    "mhz",
    "ghz",
    "db",
    "h",
    "s",
)
_ABOUT_A_FRACTION = re.compile(r"约(\d+)/(\d+)")
_DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")
_NUMBER = re.compile(r"\d")


class _Normalizer(Protocol):
    def normalize(self, text: str) -> str: ...


@functools.lru_cache(maxsize=1)
def _rules() -> _Normalizer:
    try:
        from wetext import Normalizer
    except ImportError:
        raise InputError("Chinese numbers: wetext is not installed; pip install 'emova[data]'") from None
    return Normalizer(lang="zh", operator="tn")


def _decimal(match: re.Match[str]) -> str:
    if match[3].lower() in _UNITS:
        return match[0]
    return f"{_rules().normalize(match[1])}点{match[2].translate(_DIGITS)}"


def normalise(text: str) -> str:
    """``text`` with 25度 as 二十五度 and 3.5元 as 三点五元; what holds no digit stays to the letter.

    Raises:
        InputError: wetext is not installed.
    """
    if not _NUMBER.search(text):
        return text
    text = _HYPHEN_IN_NAME.sub(" ", text)
    text = _DECIMAL_BEFORE_LETTERS.sub(_decimal, text)
    text = _ABOUT_A_FRACTION.sub(lambda found: f"约{_rules().normalize(f'{found[1]}/{found[2]}')}", text)
    return _rules().normalize(text)
