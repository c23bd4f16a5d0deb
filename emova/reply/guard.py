"""What is no answer although its grammar is right: the words of the format itself, or a voice that ends at once.

A small model that has lost the thread of a long talk falls back on what every reply holds, the names of the format's
fields. Such a reply is written again, from less of what was said before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from emova.core.errors import GarbledReplyError
from emova.reply.grammar import USUAL_RATE

_WORD = re.compile(r"[^\W\d_]+")


def schema_words(*texts: str) -> frozenset[str]:
    """The words of a format's own texts: its system prompt, the names of its fields."""
    return frozenset(word for text in texts for word in _WORD.findall(text.lower()))


@dataclass(frozen=True)
class ReplyGuard:
    """When a reply is taken for garbled.

    Args:
        held: characters of the answer's text that are held back at most, until the text is whole and was looked at.
        least_units: of speech for each letter of the text, where 25 are a second. Of 8,500 sentences by the canonical
            voice one in a thousand has fewer than 1.0.
    """

    held: int = 160
    least_units: float = 0.4

    def check_text(self, text: str, schema: frozenset[str]) -> None:
        """See that no two words of the format stand side by side in ``text``; in 127,000 sentences of nine writers
        they never do.

        Raises:
            GarbledReplyError: they do.
        """
        if schema and _neighbours(_WORD.findall(text.lower()), schema):
            raise GarbledReplyError

    def check_speech(self, text: str, units: int, unit_rate: float = USUAL_RATE) -> None:
        """See that ``units`` of speech, ``unit_rate`` a second, can say ``text``.

        Raises:
            GarbledReplyError: they are far too few.
        """
        if units < self.least_units * (unit_rate / USUAL_RATE) * sum(map(str.isalpha, text)):
            raise GarbledReplyError


def _neighbours(words: Iterable[str], schema: frozenset[str]) -> bool:
    before = False
    for word in words:
        now = word in schema
        if before and now:
            return True
        before = now
    return False
