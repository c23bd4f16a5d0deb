"""The phones that a phone decoder tells apart; which they are, the speech tokenizer's config says (``phones``).

The default inventory is English and Mandarin, toneless and tonal (EMOVA A.1). English phones are single characters of
the alphabet that misaki and hibari use (``A`` is the vowel of "day", ``I`` of "my", ``W`` of "now", ``Y`` of "boy",
``O`` of "go", ``ʤ`` and ``ʧ`` the affricates). Mandarin phones are pinyin initials, and finals with their tone (5 =
neutral), marked by a prefix: ``zh:b``, ``zh:ang1``.

Text to phones is the work of the data recipes; here are only the names. What they give and an inventory lacks is
counted, so that nothing vanishes unseen.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from emova.core.errors import InputError

BLANK = 0  # of the connectionist temporal classification, and silence in frame labels
MANDARIN = "zh:"

ENGLISH_CONSONANTS = tuple("bdfhjklmnpstvwzðŋɡɹʃʒθʤʧɾTʔ")
ENGLISH_VOWELS = tuple("AIOQWYaiuæɑɒɔəɚɛɜɪʊʌɐᵊᵻ")
MANDARIN_INITIALS = (
    "b",
    "p",
    "m",
    "f",
    "d",
    "t",
    "n",
    "l",
    "g",
    "k",
    "h",
    "j",
    "q",
    "x",
    "zh",
    "ch",
    "sh",
    "r",
    "z",
    "c",
    "s",
)
MANDARIN_FINALS = (
    "a", "o", "e", "i", "u", "v", "ai", "ei", "ao", "ou", "an", "en", "ang",
    "eng", "ong", "er", "ia", "ie", "iao", "iu", "ian", "in", "iang", "ing", "iong", "ua",
    "uo", "uai", "ui", "uan", "un", "uang", "ueng", "ve", "van", "vn", "ii", "iii",
)  # fmt: skip
TONES = "12345"

ENGLISH_PHONES = ENGLISH_CONSONANTS + ENGLISH_VOWELS
MANDARIN_PHONES = tuple(MANDARIN + phone for phone in MANDARIN_INITIALS) + tuple(
    f"{MANDARIN}{final}{tone}" for final in MANDARIN_FINALS for tone in TONES
)
PHONES: tuple[str, ...] = ENGLISH_PHONES + MANDARIN_PHONES

# Spellings of the same sound in other versions of the alphabet; an inventory that has the spelling itself keeps it.
_SAME = {"g": "ɡ", "r": "ɹ", "ɫ": "l", "e": "ɛ", "o": "O"}
_STRESS_AND_LENGTH = "ˈˌːˑ"


def is_mark(symbol: str) -> bool:
    """Whether ``symbol`` is no sound of its own: stress, length, punctuation or a space."""
    return all(character in _STRESS_AND_LENGTH or unicodedata.category(character)[0] in "PZC" for character in symbol)


class PhoneIds(NamedTuple):
    """The class numbers of phones, and how often each phone came that the inventory lacks."""

    ids: list[int]
    unknown: Counter[str]


@dataclass(frozen=True)
class PhoneInventory:
    """The phones of one tokenizer, in the order of their classes; class 0 is the blank.

    Raises:
        InputError: a phone is empty, no sound, or there twice.
    """

    phones: tuple[str, ...] = PHONES

    def __post_init__(self) -> None:
        wrong = [phone for phone in self.phones if not isinstance(phone, str) or is_mark(phone)]
        twice = [phone for phone, count in Counter(self.phones).items() if count > 1]
        if wrong or twice or not self.phones:
            name = repr((wrong or twice)[0])[:40] if self.phones else "none"
            problem = "no sound" if wrong else "there twice" if twice else "given"
            raise InputError(f"phones: {name} is {problem}; name each sound of the inventory once")

    @property
    def classes(self) -> int:
        """How many classes a decoder tells apart, with the blank."""
        return len(self.phones) + 1

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {phone: index for index, phone in enumerate(self.phones, start=BLANK + 1)}

    def ids(self, phones: Iterable[str]) -> PhoneIds:
        """Class numbers of ``phones``. Marks have none; phones that the inventory lacks are counted and left out."""
        found: list[int] = []
        unknown: Counter[str] = Counter()
        for phone in phones:
            index = self._ids.get(phone) or self._ids.get(_SAME.get(phone, ""))
            if index is not None:
                found.append(index)
            elif not is_mark(phone):
                unknown[phone] += 1
        return PhoneIds(found, unknown)

    def names(self, indices: Iterable[int]) -> list[str]:
        """The phones of class numbers; blanks are left out."""
        return [self.phones[index - 1] for index in indices if index != BLANK]


DEFAULT_PHONES = PhoneInventory()
"""English and Mandarin, and the inventory of each tokenizer that names no other."""


def describe_unknown(unknown: Counter[str]) -> str:
    """One line about phones that an inventory lacks; empty if there are none."""
    if not unknown:
        return ""
    most = ", ".join(f"{phone} {count}" for phone, count in unknown.most_common(12))
    rest = f" and {len(unknown) - 12} more" if len(unknown) > 12 else ""
    return (
        f"{unknown.total()} phones of {len(unknown)} kinds are not in the inventory and teach nothing: {most}{rest}; "
        "add them to model.phones, or map them in the text to phones"
    )


def collapse(labels: Sequence[int]) -> list[int]:
    """Greedy CTC reading: repeated labels once, blanks not at all."""
    previous = BLANK
    result = []
    for label in labels:
        if label not in (previous, BLANK):
            result.append(label)
        previous = label
    return result
