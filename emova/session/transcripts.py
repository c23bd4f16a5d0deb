"""Which of two transcripts is told: what the language model wrote, or the words that fit the phones best.

The model knows sentences like those that it learnt, with their punctuation; of others it writes down what it expects.
The speech tokenizer's decoder of phones judges both: the model's words are kept unless the others' sounds are likelier
by a margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from emova.decoding.word_search import WordSearch
from emova.session.takes import PhonePrefix, ends
from emova.speech.spelling import sounds
from emova.speech.tokenizer.protocol import HearsPhones

_ASKING = frozenset((
    "who", "whose", "what", "when", "where", "why", "how", "which", "is", "are", "am", "was", "were", "do", "does",
    "did", "can", "could", "will", "would", "shall", "should", "may", "have", "has", "had", "isn't", "aren't", "don't",
    "doesn't", "didn't", "can't", "couldn't", "won't", "wouldn't",
))  # fmt: skip
"""What a question begins with."""
_LAST_LATIN = "\u024f"
_ALWAYS_CAPITAL = frozenset(("i", "i'm", "i'll", "i've", "i'd"))


class Listener(Protocol):
    """What hears; ``emova.assistant.Assistant`` is one."""

    @property
    def word_search(self) -> WordSearch | None: ...
    @property
    def phone_reader(self) -> HearsPhones | None: ...


def better_transcript(listener: Listener, units: Sequence[int], written: str) -> str:
    """The transcript of ``units``: what the model has written, or what the search for words finds.

    A text in another script is kept: only English words are looked for.
    """
    search, reader = listener.word_search, listener.phone_reader
    if search is None or reader is None or not units or _in_another_script(written):
        return written
    log_probs_TP = reader.phone_log_probs(units)
    found = sentence(search.words(log_probs_TP))
    if not found:
        return written
    as_written, as_found = (
        ends(PhonePrefix(reader.inventory.ids(sounds(text)).ids).after(log_probs_TP)) for text in (written, found)
    )
    return written if as_written >= as_found - search.config.margin * len(units) else found


def _in_another_script(text: str) -> bool:
    letters = [each for each in text if each.isalpha()]
    return 2 * sum(each > _LAST_LATIN for each in letters) > len(letters)


def sentence(words: Sequence[str]) -> str:
    """Words with the capitals and the mark at the end that a sentence has."""
    if not words:
        return ""
    capital = [word[0].upper() + word[1:] if word.lower() in _ALWAYS_CAPITAL else word for word in words]
    capital[0] = capital[0][0].upper() + capital[0][1:]
    return " ".join(capital) + ("?" if words[0].lower() in _ASKING else ".")
