"""The control tokens and the speech units in the text vocabulary: their only list. Ids are always read from the
tokenizer, and text of users is never searched for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from emova.core.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD = "<|pad|>"
BEGIN_OF_TEXT = "<|begin_of_text|>"
END_OF_TEXT = "<|end_of_text|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END_OF_TURN = "<|end_of_turn|>"
IMAGE = "<|image|>"
IMAGE_START = "<|image_start|>"
IMAGE_END = "<|image_end|>"
IMAGE_ROW = "<|image_row|>"
SPEECH_START = "<|speech_start|>"
SPEECH_END = "<|speech_end|>"

CONTROL_TOKENS = (
    PAD,
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    SYSTEM,
    USER,
    ASSISTANT,
    END_OF_TURN,
    IMAGE,
    IMAGE_START,
    IMAGE_END,
    IMAGE_ROW,
    SPEECH_START,
    SPEECH_END,
)
ROLE_TOKENS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}

UNIT_PATTERN = r"<\|speech_([0-9]{1,4000})\|>"
"""A speech unit's token in *trusted* text; the group is the unit."""

_UNIT = re.compile(UNIT_PATTERN)
_ONE_UNIT = UNIT_PATTERN.replace("(", "(?:")
_SPEECH = re.compile(f"{re.escape(SPEECH_START)}((?:{_ONE_UNIT})*){re.escape(SPEECH_END)}")
_UNIT_RUN = re.compile(f"(?:{re.escape(SPEECH_START)})?((?:{_ONE_UNIT})+)(?:{re.escape(SPEECH_END)})?")
_SPEECH_TOKEN = re.compile(f"{UNIT_PATTERN}|({re.escape(SPEECH_START)}|{re.escape(SPEECH_END)})")


def unit_token(unit: int) -> str:
    """The token of a speech unit."""
    return f"<|speech_{unit}|>"


def speech_text(units: Iterable[int]) -> str:
    """Units as they stand in a prompt or a reply, between their start and end tokens."""
    return SPEECH_START + "".join(unit_token(unit) for unit in units) + SPEECH_END


def split_speech(text: str) -> list[dict[str, object]]:
    """Content parts of *trusted* text (a reply that we formatted): its speech spans become audio parts.

    Text of users never goes through here: it is one text part, and what looks like a control token stays text.
    """
    parts: list[dict[str, object]] = []
    end = 0
    for match in _SPEECH.finditer(text):
        if match.start() > end:
            parts.append({"type": "text", "text": text[end : match.start()]})
        parts.append({"type": "audio", "units": [int(unit) for unit in _UNIT.findall(match.group(1))]})
        end = match.end()
    if end < len(text):
        parts.append({"type": "text", "text": text[end:]})
    return parts


def split_units(text: str) -> list[str | list[int]]:
    """*Trusted* text (a record of a data set) as text and runs of units, with or without start and end tokens."""
    parts: list[str | list[int]] = []
    end = 0
    for run in _UNIT_RUN.finditer(text):
        if run.start() > end:
            parts.append(text[end : run.start()])
        parts.append([int(unit) for unit in _UNIT.findall(run.group(1))])
        end = run.end()
    if end < len(text):
        parts.append(text[end:])
    return parts


def speech_pieces(text: str) -> list[tuple[str, str | int]]:
    """*Trusted* text cut at its speech tokens: ``("text", words)``, ``("unit", 7)``, ``("token", SPEECH_START)``."""
    pieces: list[tuple[str, str | int]] = []
    end = 0
    for match in _SPEECH_TOKEN.finditer(text):
        if match.start() > end:
            pieces.append(("text", text[end : match.start()]))
        unit, token = match.groups()
        pieces.append(("unit", int(unit)) if unit is not None else ("token", token))
        end = match.end()
    if end < len(text):
        pieces.append(("text", text[end:]))
    return pieces


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase, codebook_size: int) -> None:
    """Give any tokenizer the control tokens and units it lacks, as special tokens, and name pad, begin and end."""
    known = tokenizer.get_vocab()
    wanted = [*CONTROL_TOKENS, *(unit_token(unit) for unit in range(codebook_size))]
    missing = [token for token in wanted if token not in known]
    tokenizer.add_tokens(missing, special_tokens=True)
    tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token = PAD, BEGIN_OF_TEXT, END_OF_TURN


ALIASES = "emova_tokens"
"""In a tokenizer's configuration: control tokens that it has by another name, and that name."""
FRAME = "emova_frame"
"""In a tokenizer's configuration: what stands around the parts of a conversation (``Frame``), as text."""


def token_names(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What each control token is called in this tokenizer."""
    aliases = getattr(tokenizer, "init_kwargs", {}).get(ALIASES) or {}
    return {token: str(aliases.get(token, token)) for token in CONTROL_TOKENS}


@dataclass(frozen=True)
class TokenIds:
    """Ids of the control tokens, and of the units, which lie one after another from ``first_unit``."""

    pad: int
    begin_of_text: int
    end_of_text: int
    system: int
    user: int
    assistant: int
    end_of_turn: int
    image: int
    image_start: int
    image_end: int
    image_row: int
    speech_start: int
    speech_end: int
    first_unit: int
    codebook_size: int

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> TokenIds:
        """Read the ids.

        Raises:
            InputError: a control token is missing, or the units are not consecutive.
        """
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        names = token_names(tokenizer)
        missing = [token for token in (*names.values(), unit_token(0)) if token not in vocabulary]
        if missing:
            raise InputError(f"tokenizer: it lacks {missing[0]}; use the tokenizer of an emova checkpoint")
        first, size = vocabulary[unit_token(0)], 0
        while vocabulary.get(unit_token(size)) == first + size:
            size += 1
        if unit_token(size) in vocabulary:
            raise InputError(f"tokenizer: the unit tokens are not consecutive at {unit_token(size)}")
        named = {token.strip("<|>"): vocabulary[name] for token, name in names.items()}
        return cls(**named, first_unit=first, codebook_size=size)

    def is_unit(self, token_id: int) -> bool:
        return self.first_unit <= token_id < self.first_unit + self.codebook_size

    def from_units(self, units: Iterable[int]) -> list[int]:
        """Token ids of units.

        Raises:
            InputError: a unit lies outside the codebook.
        """
        ids = [int(unit) + self.first_unit for unit in units]
        for token_id in ids:
            if not self.is_unit(token_id):
                raise InputError(
                    f"speech unit {token_id - self.first_unit}: the codebook has units 0 to {self.codebook_size - 1}"
                )
        return ids

    def to_units(self, token_ids: Sequence[int]) -> list[int]:
        """The units among token ids; everything else is left out."""
        return [token_id - self.first_unit for token_id in token_ids if self.is_unit(token_id)]


@dataclass(frozen=True)
class Frame:
    """Token ids that stand around the parts of a conversation.

    What a tokenizer's configuration gives as text may lack the last four: older ones ended every turn alike.

    Attributes:
        begin: before the first turn, where that is a system message.
        system, user, assistant: before a turn of that role; the assistant's is also what asks for an answer.
        heard, heard_end: around the units of a question.
        shown, shown_end: around a picture.
        system_end, user_end: after a turn of that role; the end of turn where nothing is said.
        assistant_end: what the template puts behind the end of turn that the model writes; nothing unless it is said.
        begin_user: before the first turn of any other role; ``begin`` where nothing is said.
    """

    begin: tuple[int, ...]
    system: tuple[int, ...]
    user: tuple[int, ...]
    assistant: tuple[int, ...]
    heard: tuple[int, ...]
    heard_end: tuple[int, ...]
    shown: tuple[int, ...]
    shown_end: tuple[int, ...]
    system_end: tuple[int, ...]
    user_end: tuple[int, ...]
    assistant_end: tuple[int, ...]
    begin_user: tuple[int, ...]

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """The one that the tokenizer's configuration gives as text, or a control token for each.

        Raises:
            InputError: a control token is missing, or the text of a part is.
        """
        stated = getattr(tokenizer, "init_kwargs", {}).get(FRAME)
        ids = TokenIds.from_tokenizer(tokenizer)
        end = (ids.end_of_turn,)
        if stated is None:
            roles = ((ids.begin_of_text,), (ids.system,), (ids.user,), (ids.assistant,))
            marks = ((ids.speech_start,), (ids.speech_end,), (ids.image_start,), (ids.image_end,))
            return cls(*roles, *marks, end, end, (), (ids.begin_of_text,))
        parts: dict[str, tuple[int, ...]] = {}
        for part in fields(cls):
            text = stated.get(part.name) if isinstance(stated, dict) else None
            if text is None and part.name in _OPTIONAL:
                parts[part.name] = {"begin_user": parts["begin"], "assistant_end": ()}.get(part.name, end)
            elif isinstance(text, str):
                parts[part.name] = tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()
            else:
                raise InputError(f"tokenizer: {FRAME} lacks the text of {part.name}; copy the whole checkpoint again")
        return cls(**parts)

    def opening(self, role: object) -> tuple[int, ...]:
        """What stands before a conversation whose first turn is of ``role``."""
        return self.begin if role == "system" else self.begin_user

    def before(self, role: str) -> tuple[int, ...]:
        """What stands before a turn of ``role``."""
        return {"system": self.system, "user": self.user, "assistant": self.assistant}[role]

    def after(self, role: str) -> tuple[int, ...]:
        """What stands after a turn of ``role``; after an answer, behind the end of turn."""
        return {"system": self.system_end, "user": self.user_end, "assistant": self.assistant_end}[role]


_OPTIONAL = ("system_end", "user_end", "assistant_end", "begin_user")
