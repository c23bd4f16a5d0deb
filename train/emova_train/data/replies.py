"""Spoken replies as training messages: their tokens, and what each of them teaches, in any reply format."""

from __future__ import annotations

from collections.abc import Sequence

from emova.core.errors import InputError
from emova.model import EmovaProcessor
from emova.model.processing_emova import Message
from emova.reply.format import ReplyFormat, Role
from emova.reply.grammar import TokenTable
from emova.reply.parser import SpokenReply
from emova_train.data.examples import ANSWER, NOTHING, SKELETON, STYLE, TRANSCRIPT, UNITS

_TEACHES: dict[Role, int] = {
    "skeleton": SKELETON,
    "transcript": TRANSCRIPT,
    "answer": ANSWER,
    "style": STYLE,
    "speech": UNITS,
}


def reply_format_of(processor: EmovaProcessor) -> ReplyFormat:
    """How the processor's model writes spoken replies. Raises: InputError: nobody said."""
    if processor.reply_format is None:
        raise InputError("the processor: it has no reply format; load it beside its model, or hand one in")
    return processor.reply_format


def reply_kinds(reply_format: ReplyFormat, reply: SpokenReply, table: TokenTable) -> tuple[int, ...]:
    """What each token of ``reply_format.encode(reply, table)`` teaches."""
    return tuple(_TEACHES[role] for role, ids in reply_format.stretches(reply, table) for _ in ids)


def reply_message(
    reply_format: ReplyFormat, reply: SpokenReply, table: TokenTable, untaught: Sequence[int] = ()
) -> tuple[Message, tuple[int, ...]]:
    """The assistant's message of trusted tokens, and what each of them (the end of turn included) teaches.

    Args:
        untaught: kinds that teach nothing here.
    """
    ids = reply_format.encode(reply, table)[:-1]  # the rendering adds the end of turn
    kinds = reply_kinds(reply_format, reply, table)
    assert len(kinds) == len(ids) + 1
    kinds = tuple(NOTHING if kind in untaught else kind for kind in kinds)
    return {"role": "assistant", "content": [{"type": "tokens", "ids": ids}]}, kinds
