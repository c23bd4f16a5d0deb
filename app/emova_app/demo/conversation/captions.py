"""What a visitor is saying, to be read while it is said.

The words are those that the model has read anyway: CTC's, behind those that stay of long speech. So they take no pass
of the model. They follow the speech by a block of the speech tokenizer, and the transcript takes their place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

_LAST_WORD = re.compile(r"(?:[\u2e80-\uffff]|[^\s\u2e80-\uffff]+)\s*$")  # Chinese is written without spaces


class _Question(Protocol):
    """What of a question is looked at."""

    @property
    def silent(self) -> bool: ...

    @property
    def units(self) -> tuple[int, ...]: ...


class Spoken(Protocol):
    """A session that listens."""

    @property
    def question(self) -> _Question: ...

    def so_far(self) -> tuple[str, str]:
        """As ``Session.so_far``."""
        ...


@dataclass(frozen=True)
class Caption:
    """The words so far; together they are one text.

    Attributes:
        said: these CTC reads no other way; where long speech is cut, the transcript's words take their place.
        draft: the word behind them, which may not be over.
    """

    said: str = ""
    draft: str = ""


class Captions:
    """The captions of one question after the other.

    Attributes:
        now: the newest one.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Nothing was said."""
        self.now = Caption()
        self._units, self._text = 0, ""

    def step(self, session: Spoken) -> Caption:
        """After more was heard. Only new speech units are a reason to look: they come a block at a time."""
        units = len(session.question.units)
        if units != self._units and not session.question.silent:
            stays, draft = session.so_far()
            text = f"{stays}{draft}"
            # A word behind which there was nothing for a block is over.
            last = None if text == self._text else _LAST_WORD.search(draft)
            at = len(text) if last is None else len(stays) + last.start()
            self.now = Caption(text[:at].lstrip(), text[at:].strip())
            self._units, self._text = units, text
        return self.now
