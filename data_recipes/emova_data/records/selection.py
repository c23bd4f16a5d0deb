"""Which records are worth training on: the quality check that a source's ``select`` asks for (EMOVA §5.1).

The paper checks the quality of its instruction data, removes copies, and does not say how. These checks need no model
and say the same of a record in every run; what each leaves out is counted under its own reason.
"""

from __future__ import annotations

import io
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from emova.core.errors import InputError
from emova_data.records.records import Record

SELECTED = "selection: "
"""What the reasons of a selection begin with; they are no damage."""
_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+")
_RUN = 4
_STRANGE = {"Cc", "Co", "Cn", "Cs"}


@dataclass(frozen=True)
class Selection:
    """A source's ``select``; what is 0 or empty is not looked at. Words are words, or characters of Chinese.

    Attributes:
        min_answer_words: of all answers of a conversation together.
        max_words: of the whole conversation.
        max_turns: questions in a conversation.
        max_repeated: most of an answer's runs of four words that may have been there before in the same answer,
            as a share: an answer that goes round in circles is left out.
        max_strange: most of the characters that may be control characters, unassigned or replaced ones, as a share.
        min_side: of every picture, in pixels.
        max_aspect: of every picture, the longer side over the shorter.
        refusals: answers that begin with one of these (case aside) teach to refuse.
    """

    min_answer_words: int = 0
    max_words: int = 0
    max_turns: int = 0
    max_repeated: float = 0.0
    max_strange: float = 0.0
    min_side: int = 0
    max_aspect: float = 0.0
    refusals: tuple[str, ...] = ()

    def reason(self, record: Record) -> str | None:
        """Why ``record`` is left out; None: it stays."""
        found = self._words(record) or self._pictures(record)
        return None if found is None else SELECTED + found

    def _words(self, record: Record) -> str | None:
        answers = [_text(turn) for turn in record.messages if turn["role"] == "assistant"]
        counted = [_WORD.findall(answer.lower()) for answer in answers]
        said = [part for turn in record.messages if turn["role"] == "assistant" for part in turn["content"]]
        spoken = any(part["type"] != "text" for part in said)
        if sum(map(len, counted)) < self.min_answer_words and not spoken:
            return "a short answer"
        if self.max_turns and len(answers) > self.max_turns:
            return "too many turns"
        whole = "\n".join(_text(turn) for turn in record.messages)
        if self.max_words and len(_WORD.findall(whole)) > self.max_words:
            return "too many words"
        if self.max_repeated and any(_repeated(words) > self.max_repeated for words in counted):
            return "an answer that repeats itself"
        if self.max_strange and whole and sum(map(_is_strange, whole)) > self.max_strange * len(whole):
            return "strange characters"
        begun = tuple(phrase.lower() for phrase in self.refusals)
        if begun and any(answer.strip().lower().startswith(begun) for answer in answers):
            return "a refusal"
        return None

    def _pictures(self, record: Record) -> str | None:
        if not (self.min_side or self.max_aspect):
            return None
        from PIL import Image

        for media in record.media:
            if media.member.rpartition(".")[2] not in ("jpg", "png", "webp", "gif", "bmp"):
                continue
            short, long = sorted(Image.open(io.BytesIO(media.content)).size)  # its head was read before
            if short < self.min_side:
                return "a small picture"
            if self.max_aspect and long > self.max_aspect * short:
                return "a narrow picture"
        return None


def selection_of(raw: Mapping[str, Any], where: str) -> Selection:
    """The selection that a registry entry's ``select`` describes.

    Raises:
        InputError: a key is unknown, or a value is no number of 0 or more; the message begins with ``where``.
    """
    known = asdict(Selection())
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in known:
            raise InputError(f"{where}: select.{str(key)[:30]} is unknown; keys are {', '.join(known)}")
        if key == "refusals":
            if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
                raise InputError(f"{where}: select.refusals is a list of phrases")
            values[key] = tuple(value)
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise InputError(f"{where}: select.{key} is a number of 0 or more")
        values[key] = type(known[key])(value)
    return Selection(**values)


def _text(turn: Mapping[str, Any]) -> str:
    return "\n".join(part["text"] for part in turn["content"] if isinstance(part.get("text"), str))


def _is_strange(character: str) -> bool:
    return character not in "\n\t\r" and (character == "\ufffd" or unicodedata.category(character) in _STRANGE)


def _repeated(words: list[str]) -> float:
    """The share of runs of four words that were there before; 0 where there are few."""
    runs = [tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if len(runs) >= 2 * _RUN else 0.0
