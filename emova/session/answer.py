"""A question that was asked, and its answer as far as it is written."""

from __future__ import annotations

from dataclasses import dataclass

from emova.decoding.protocol import Prompt
from emova.decoding.sampling import Sampling
from emova.engine.request import GenerationRequest
from emova.reply.format import ReplyConstraints
from emova.reply.tools import ToolResult
from emova.session.output import ReplyAssembler


@dataclass(frozen=True)
class Asked:
    """A question that is whole, and how it is to be answered.

    Attributes:
        read: tokens of another answer, which the model has read behind it.
    """

    prompt: Prompt
    picture: Prompt | None
    results: tuple[ToolResult, ...]
    constraints: ReplyConstraints
    sampling: Sampling
    read: tuple[int, ...] = ()


@dataclass
class Answer:
    """The answer to what was asked last, as far as it is written; ``delivered`` samples of it were handed out.

    Attributes:
        first: the answer that it is written in place of, which stands if this one is not to be trusted either.
    """

    asked: Asked
    request: GenerationRequest
    assembler: ReplyAssembler
    delivered: int = 0
    first: Answer | None = None
