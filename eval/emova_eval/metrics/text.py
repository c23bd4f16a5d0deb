"""Text measures: normalisation, word, character and phone error rates.

English is normalised as Whisper's reports do it (Radford et al. 2022, appendix C). Chinese is normalised so: Unicode
NFKC (full-width forms become half-width), Latin letters in lower case, everything dropped that is neither a letter nor
a number, white space included; digits and Chinese numerals are *not* made equal. Its tokens are single characters, and
a run of Latin letters or digits counts letter by letter, as the character error rate of AISHELL does.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from emova.core.levenshtein import edit_distance


@cache
def _normalizer() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    # No spelling table: British spellings would need a file that only a hub has.
    return EnglishTextNormalizer({})


def normalize_english(text: str) -> str:
    """Whisper's English normaliser (lower case, no punctuation, number words as digits), without its spelling table."""
    return str(_normalizer()(text))


def normalize_chinese(text: str) -> str:
    """Characters that are spoken, without spaces and punctuation; see the module's text for the rules."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return "".join(character for character in folded if unicodedata.category(character)[0] in "LN")


@dataclass(frozen=True)
class ErrorRate:
    """Edits over reference tokens, pooled over a corpus."""

    edits: int
    reference_tokens: int

    @property
    def rate(self) -> float:
        """Edits for each reference token; 0 for an empty corpus without edits."""
        return self.edits / self.reference_tokens if self.reference_tokens else float(self.edits > 0)

    def __add__(self, other: ErrorRate) -> ErrorRate:
        return ErrorRate(self.edits + other.edits, self.reference_tokens + other.reference_tokens)


def token_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> ErrorRate:
    """Errors of one token sequence (phones, characters)."""
    return ErrorRate(edit_distance(reference, hypothesis), len(reference))


def word_errors(reference: str, hypothesis: str) -> ErrorRate:
    """Word errors of one sentence after normalisation; an empty hypothesis counts every word as an error."""
    return token_errors(normalize_english(reference).split(), normalize_english(hypothesis).split())


def character_errors(reference: str, hypothesis: str) -> ErrorRate:
    """Character errors of one Chinese sentence; an empty hypothesis counts every character as an error."""
    return token_errors(normalize_chinese(reference), normalize_chinese(hypothesis))
