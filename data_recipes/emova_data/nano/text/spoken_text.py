"""Text that can be said aloud: clean what only the eye reads, say numbers in words, reject the rest (EMOVA §4.2).

The paper keeps dialogues fit for vocal expression in two steps: drop what no one would speak (code, formulas), then
remove formatting elements. ``clean`` is the second step, ``why_unspeakable`` the first; ``to_spoken`` joins them.
English only where it must be (numbers, units of money); the set of allowed characters is a parameter.
"""

from __future__ import annotations

import re

ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ',.?!-")
"""Characters of spoken English text in this recipe: letters, space, apostrophe, hyphen and four marks."""

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
_IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
_CURRENCIES = {"$": ("dollar", "dollars"), "£": ("pound", "pounds"), "€": ("euro", "euros")}

_CODE = re.compile(r"```|^\s{4,}\S+.*[;{}]|[{}]|</?[a-z]+[^>]*>|\b\w+\(\w*\)|==|=>|\b(?:def|import|return)\s+\w+", re.M)
_FORMULA = re.compile(r"\$\$|\\[a-zA-Z]+|\w\s*[=^]\s*\w|[∑∫√≤≥±×÷]|\b\w+_\w+\b|[A-Za-z0-9]\s*[*/+]\s*[A-Za-z0-9(]")
_ADDRESS = re.compile(r"https?://|www\.|\S+@\S+\.\S+|(?:^|\s)[~.]?/\w+/\w*")
_TABLE = re.compile(r"^\s*\|.*\|\s*$", re.M)
_EMOJI = re.compile("[\u2190-\u2bff\u2600-\u27bf\U0001f000-\U0001faff\ufe0f\u200d]")


def number_words(value: int) -> str:
    """A whole number in words, ``25`` -> ``twenty-five``; up to 999,999,999,999 either side of zero.

    Raises:
        ValueError: it is beyond that.
    """
    if abs(value) >= 10**12:
        raise ValueError("too large to say")
    if value < 0:
        return "minus " + number_words(-value)
    if value < 20:
        return _ONES[value]
    if value < 100:
        tens, ones = divmod(value, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    for scale, name in _SCALES:
        if value >= scale:
            head, rest = divmod(value, scale)
            joint = " and " if rest and rest < 100 else " "
            return f"{number_words(head)} {name}" + (joint + number_words(rest) if rest else "")
    raise AssertionError(value)


def ordinal_words(value: int) -> str:
    """``3`` -> ``third``, ``21`` -> ``twenty-first``."""
    words = number_words(value)
    head, mark, last = words.rpartition("-") if "-" in words.split()[-1] else words.rpartition(" ")
    if last in _IRREGULAR_ORDINALS:
        last = _IRREGULAR_ORDINALS[last]
    elif last.endswith("y"):
        last = last[:-1] + "ieth"
    else:
        last += "th"
    return head + mark + last


def say_numbers(text: str) -> str:
    """Replace digits, prices, percentages, ordinals and clock times by words."""

    def whole(digits: str) -> str:
        return number_words(int(digits.replace(",", "")))

    def money(m: re.Match[str]) -> str:
        one, many = _CURRENCIES[m[1]]
        words = f"{whole(m[2])} {one if m[2] == '1' else many}"
        return words + (f" and {whole(m[3])} cents" if m[3] and int(m[3]) else "")

    def clock(m: re.Match[str]) -> str:
        hour, minute = int(m[1]), int(m[2])
        if minute == 0:
            return f"{number_words(hour)} o'clock"
        return f"{number_words(hour)} {'oh ' if minute < 10 else ''}{number_words(minute)}"

    def decimal(m: re.Match[str]) -> str:
        return f"{whole(m[1])} point {' '.join(_ONES[int(d)] for d in m[2])}"

    number = r"\d{1,3}(?:,\d{3})+|\d{1,12}"
    text = re.sub(rf"([$£€])({number})(?:\.(\d\d))?\b", money, text)
    text = re.sub(r"\b([01]?\d|2[0-3]):([0-5]\d)\b", clock, text)
    text = re.sub(r"\b(\d{1,9})(?:st|nd|rd|th)\b", lambda m: ordinal_words(int(m[1])), text)
    text = re.sub(r"\b(\d{1,12})\.(\d{1,6})\b", decimal, text)
    text = re.sub(rf"(?<![\w.])({number})\s?%", lambda m: f"{whole(m[1])} percent", text)
    return re.sub(rf"(?<![\w.])({number})(?!\w)", lambda m: whole(m[1]), text)


def clean(text: str) -> str:
    """Remove formatting: markdown marks, list bullets, links' targets, emoji, line breaks, typographic quotes."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)  # links and pictures keep their words
    text = re.sub(r"^\s{0,3}(?:#{1,6}|>+|[-*+•]|\d{1,2}[.)])\s+", "", text, flags=re.M)
    text = re.sub(r"(\*\*|__|~~)(?=\S)(.+?)(?<=\S)\1", r"\2", text)
    text = re.sub(r"(?<![\w*])[*_](?=\S)([^*_\n]+?)(?<=\S)[*_](?![\w*])", r"\1", text)
    text = re.sub(r"`([^`\n]+)`", r"\1", text)
    text = text.replace("\\n", " ")
    text = _EMOJI.sub("", text)
    text = text.replace("’", "'").replace("‘", "'").replace("…", ".").replace("\u00a0", " ")
    text = re.sub(r"(?<!\w)'([^']*)'(?!\w)", r"\1", text)
    text = re.sub(r"[\"“”„«»]", "", text)
    text = re.sub(r"\s*(?:—|–|--+|\s-\s|;)\s*", ", ", text)
    text = re.sub(r"\s*\(([^()]*)\)", r", \1,", text)
    text = re.sub(r":(?=\s)", ",", text)
    text = re.sub(r"&", " and ", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,.?!])", r"\1", text)
    text = re.sub(r",(?:\s*,)+", ",", text)
    text = re.sub(r",([.?!])", r"\1", text)
    text = re.sub(r"([.?!])\1+", r"\1", text)
    return text.strip(" ,")


def why_unspeakable(text: str, max_words: int = 60, allowed: frozenset[str] = ALLOWED) -> str | None:
    """The reason why ``text`` is not fit to be said, or None. Call on raw text (code, formulas) or on cleaned text."""
    if not any(c.isalpha() for c in text):
        return "no words"
    for reason, pattern in (("code", _CODE), ("formula", _FORMULA), ("address", _ADDRESS), ("table", _TABLE)):
        if pattern.search(text):
            return reason
    strange = sorted(set(text) - allowed)
    if strange:
        return f"characters {' '.join(strange)!r}"
    if len(text.split()) > max_words:
        return "too long"
    if re.search(r"\b(?![AI]\b)[B-Z]{2,}\b|\b[A-Z]{2,}\b", text):
        return "abbreviation"
    if re.search(r"\w[.?!,]\w", text):
        return "marks within a word"
    if re.search(r"\w{24,}|(\w)\1{3,}", text):
        return "not a word"
    return None


def to_spoken(text: str, max_words: int = 60) -> str | None:
    """Clean text fit to be said, or None where code, formulas, tables or addresses would have to be read out."""
    for pattern in (_CODE, _ADDRESS, _TABLE):
        if pattern.search(re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)):
            return None
    if _FORMULA.search(re.sub(r"[$£€]\d", "", clean(text))):
        return None
    spoken = say_numbers(clean(text))
    return None if why_unspeakable(spoken, max_words) else spoken


def words(text: str) -> list[str]:
    """Lower-case words without marks, apostrophes kept: the form in which texts are compared."""
    return re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("’", "'"))
