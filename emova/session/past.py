"""Turns of an earlier conversation, as a client kept them: what of them a new one can remember."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emova.decoding.protocol import Prompt
from emova.reply.parser import SpokenReply
from emova.reply.tools import ToolResult
from emova.session.input import Question
from emova.session.protocol import DialogueModel


@dataclass(frozen=True)
class PastTurn:
    """What was asked and answered in an earlier turn; ``reply`` None: it is being asked.

    Attributes:
        picture: its tokens and tiles.
        units: those of the spoken question.
        text: what was written.
        results: what tools gave back before it, or in place of a question.
    """

    picture: Prompt | None = None
    units: tuple[int, ...] = ()
    text: str | None = None
    reply: SpokenReply | None = None
    results: tuple[ToolResult, ...] = ()


def rendered(model: DialogueModel, turn: PastTurn) -> tuple[Prompt, list[int]]:
    """A turn that is over as the model reads it: its question, and the tokens of its answer."""
    assert turn.reply is not None, "a turn that is over has an answer"
    heard = turn.units[-model.speech_window :]  # of long speech no more than the model would still have heard
    question = Question(model, turn.picture, heard, turn.results)
    return question.prompt(turn.text), model.reply_format.encode(turn.reply, model.table)


def positions(model: DialogueModel, turn: PastTurn) -> int:
    """How many positions of the model's context a turn that is over takes."""
    prompt, answer = rendered(model, turn)
    return len(prompt.ids) + len(answer)


def fitting(model: DialogueModel, past: Sequence[PastTurn]) -> list[tuple[PastTurn, Prompt, list[int]]]:
    """The newest turns that are within the trained context, at least one; the oldest of them first."""
    fit: list[tuple[PastTurn, Prompt, list[int]]] = []
    left = model.trained_context
    for turn in reversed(past):
        prompt, answer = rendered(model, turn)
        left -= len(prompt.ids) + len(answer)
        if left < 0 and fit:
            break
        fit.append((turn, prompt, answer))
    return fit[::-1]
