"""How a text is spelled to a model that reads it aloud: in its own letters, or sound by sound.

A large language model knows how words sound; a small one would have to meet every word of a language first. To such a
model a pronouncing dictionary tells the sounds, as it does to most synthesizers, and only saying them is left to learn.
The sounds are written in letters that every text tokenizer has: one letter a phone, so that no word of the vocabulary
can join two of them.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from emova.core.errors import InputError
from emova.core.extras import missing_package

if TYPE_CHECKING:
    from hibari.g2p import G2P

T = TypeVar("T")
Spell = Callable[[str], str]
"""From a text to what the model is given in its place."""
LETTERS, PHONES = "letters", "phones"
_LETTER_OF = {
    **{symbol: symbol for symbol in "bdfhjklmnpstvwzuAIOWY"},
    "ð": "D", "ŋ": "N", "ɡ": "g", "ɹ": "r", "ʃ": "S", "ʒ": "J", "θ": "T", "ʤ": "G", "ʧ": "C", "ɾ": "F", "T": "F",
    "ʔ": "P", "i": "y", "æ": "a", "ɑ": "o", "ɔ": "c", "ə": "e", "ɛ": "E", "ɜ": "R", "ɪ": "H", "ʊ": "U", "ʌ": "V",
    "ᵊ": "L", "ᵻ": "K", "ɐ": "e", "ʀ": "r", "a": "o", "y": "y",
}  # fmt: skip
"""A letter for each phone of misaki's American English. None of them is i, q, x, Q, X or Z: alone behind a space they
are rare in texts, and no token of their own in a small vocabulary."""
_STRESS = {"ˈ": "1", "ˌ": "2"}
_PAUSES = {";": ",", ":": ",", "—": ",", "…": ".", **{mark: mark for mark in ",.!?"}}
_BETWEEN_WORDS = "-"
_LONG_RUN = re.compile(r"\S{30,}")
_LONG_NUMBER = re.compile(r"\d{16,}")


@functools.lru_cache(maxsize=1)
def dictionary() -> G2P:
    """What knows how English words sound. Raises: InputError: its package (hibari-tts) is not installed."""
    try:
        from hibari.g2p import G2P
    except ImportError as error:
        raise missing_package(error, "how words sound") or error from None
    return G2P()


def _plain(text: str) -> str:
    """All that the dictionary can read, and reads soon: superscripts, ligatures, full width as plain characters; no
    digits of no number (➀); very large numbers digit by digit, and signs apart where there is no space for long.
    """
    plain = unicodedata.normalize("NFKC", text).replace("İ", "I")
    plain = "".join(each for each in plain if each.isdecimal() or not each.isdigit())
    plain = _LONG_NUMBER.sub(lambda number: " ".join(number[0]), plain)
    return " ".join(_LONG_RUN.sub(lambda run: re.sub(r"(\W)", r" \1 ", run[0]), plain).split())


def _read(plain: str, read: Callable[[str], T], join: Callable[[list[T]], T]) -> T:
    """What the dictionary makes of a text; word by word where it breaks, without those that break it."""
    try:
        return read(plain)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        words = plain.split()
        return join([]) if len(words) < 2 else join([_read(word, read, join) for word in words])


@functools.lru_cache(maxsize=1024)
def sounds(text: str) -> str:
    """An English text in misaki's alphabet: its phones, stress, spaces and punctuation. What has no sound is left out.

    Raises:
        InputError: the dictionary is not installed.
    """
    return _read(_plain(text), dictionary(), " ".join)


def read_words(text: str) -> list[tuple[str, str]]:
    """Each word of an English text as it is written out ("3:30" is two words) and its sounds in misaki's alphabet;
    punctuation has none.

    Raises:
        InputError: the dictionary is not installed.
    """
    return _read(_plain(text), _words, lambda parts: [word for part in parts for word in part])


def _words(plain: str) -> list[tuple[str, str]]:
    from hibari.g2p.normalize import normalize

    reader, words, written, symbols = dictionary(), [], "", ""
    for token in reader.phonemize_tokens(reader.tokenize(normalize(plain))):
        joined = any(each.isalnum() or each in "'’-" for each in token.text)  # a contraction is several tokens
        if not joined and written:
            words.append((written, symbols))
            written = symbols = ""
        written, symbols = written + token.text, symbols + (token.phonemes or "")
        if token.whitespace or not joined:
            words.append((written, symbols))
            written = symbols = ""
    return words + ([(written, symbols)] if written else [])


def phone_letters(text: str) -> str:
    """The sounds of an English text, such as ``" h e l1 O- D1 E r."`` of "Hello there.": each phone a space and a
    letter, before a stressed vowel its stress (1 or 2), a hyphen between words, and the pauses that are written.

    A text without any sound of English is given back as it is.

    Raises:
        InputError: the dictionary (hibari-tts) is not installed.
    """
    spelled = ""
    for symbol in sounds(text):
        if letter := _LETTER_OF.get(symbol):
            spelled += f" {letter}"
        elif stress := _STRESS.get(symbol):
            spelled += stress
        elif pause := _PAUSES.get(symbol):
            spelled = spelled.removesuffix(_BETWEEN_WORDS) + pause
        elif symbol.isspace() and spelled[-1:].isalpha():
            spelled += _BETWEEN_WORDS
    return spelled if re.search("[A-Za-z]", spelled) else text


SPELLINGS: dict[str, Spell] = {LETTERS: str, PHONES: phone_letters}
"""By the name that a checkpoint's config has."""


def find_spelling(name: str) -> Spell:
    """How a text is spelled. Raises: InputError: there is no such way."""
    if not isinstance(name, str) or name not in SPELLINGS:
        raise InputError(f"the spelling {name!r}: unknown; give one of {', '.join(SPELLINGS)}")
    return SPELLINGS[name]
