"""What is written in the place of a reply that nobody should get: garbled, not trusted, or led astray."""

from __future__ import annotations

from dataclasses import dataclass

from emova.core.errors import DistractedReplyError, UncertainReplyError, UnfitReplyError
from emova.decoding.protocol import Prompt
from emova.reply.doubt import Doubt
from emova.reply.format import ReplyConstraints
from emova.session.history import TurnContext
from emova.session.output import ReplyAssembler


@dataclass(frozen=True)
class Another:
    """How the other reply is written.

    Attributes:
        doubt: when it is not trusted either; None always trusts it.
        read: tokens of the reply before that are still read behind the question.
    """

    constraints: ReplyConstraints
    doubt: Doubt | None = None
    read: tuple[int, ...] = ()


def in_place_of(
    before: ReplyAssembler,
    error: UnfitReplyError,
    history: TurnContext,
    question: Prompt,
    constraints: ReplyConstraints,
) -> Another | None:
    """Make ``history`` ready for another reply to ``question``; None if there can be none.

    One that the turns before may have led astray is written without them, and waits meanwhile: if the model is not sure
    of that either, the question is about those turns after all, and the first one stands. Where else it is not trusted,
    the model admits that it does not know; and what is garbled is written from a shorter history.
    """
    if isinstance(error, DistractedReplyError):
        history.put_aside()
        return Another(before.anew(constraints), history.doubt)
    if isinstance(error, UncertainReplyError):
        return Another(before.admission(constraints), read=history.reask_behind(question, before.tokens))
    again = before.again(constraints)
    return Another(again) if again is not None and history.shorten() else None
