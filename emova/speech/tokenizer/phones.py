"""The phone inventory of the phone decoder: English and Mandarin, toneless and tonal (EMOVA A.1).

English phones are single characters of the alphabet that misaki and hibari use (``A`` is the vowel of "day", ``I`` of
"my", ``W`` of "now", ``Y`` of "boy", ``O`` of "go", ``ʤ`` and ``ʧ`` the affricates). Mandarin phones are pinyin
initials, and finals with their tone (5 = neutral), marked by a prefix: ``zh:b``, ``zh:ang1``. Text to phones is the
work of the data recipes; here are only the names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
PHONE_IDS: dict[str, int] = {phone: index for index, phone in enumerate(PHONES, start=BLANK + 1)}
NUM_CLASSES = len(PHONES) + 1  # with the blank

# Spellings of the same sound in other versions of the alphabet.
_SAME = {"g": "ɡ", "r": "ɹ", "ɫ": "l", "e": "ɛ", "o": "O"}


def phone_ids(phones: Iterable[str]) -> list[int]:
    """Class numbers of ``phones``; stress, length, punctuation and unknown marks have none and are left out."""
    found = (PHONE_IDS.get(_SAME.get(phone, phone)) for phone in phones)
    return [index for index in found if index is not None]


def collapse(labels: Sequence[int]) -> list[int]:
    """Greedy CTC reading: repeated labels once, blanks not at all."""
    previous = BLANK
    result = []
    for label in labels:
        if label not in (previous, BLANK):
            result.append(label)
        previous = label
    return result


def phone_names(indices: Iterable[int]) -> list[str]:
    """The phones of class numbers; blanks are left out."""
    return [PHONES[index - 1] for index in indices if index != BLANK]
