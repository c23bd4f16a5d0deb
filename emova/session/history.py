"""What a dialogue remembers, and what of it stands in the model's context."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emova.core.errors import InputError, TooLongError
from emova.decoding.protocol import Context, Mark, Prompt
from emova.reply.doubt import Doubt
from emova.reply.format import ReplyConstraints
from emova.reply.grammar import Grammar
from emova.reply.parser import SpokenReply
from emova.session.protocol import DialogueModel

UNITS_PER_BYTE = 1.7
"""Of spoken English, to guess how much of a text was said."""
_AT_ONCE = 16
"""Positions of a question that are read together without the turns before it: so many cost little more than one."""
NOTHING = Prompt(())


@dataclass(frozen=True)
class Turn:
    """A question, and the tokens of its answer."""

    question: Prompt
    answer: tuple[int, ...]

    def __len__(self) -> int:
        """Positions in the model's context."""
        return len(self.question.ids) + len(self.answer)


class TurnContext:
    """The turns of one dialogue and the model's context that holds them: the opening, the turns, and of the question
    that is being asked what is certain already. The oldest turns leave when there is no room for the next reply.

    A whole question is asked by ``grammar``, then ``rest`` is read, then ``add`` keeps the turn. A question that is
    still being spoken is read on by ``read_on``; until ``add``, ``rewind`` forgets all of it.

    Where turns may lead the model astray, the question is read without them too, in a context of its own, so that
    ``put_aside`` can ask it there at once. What was written behind the turns stays until the turn is kept.

    Args:
        instructions: a system message beside the one that asks for the reply format.

    Attributes:
        turns: the oldest first.
        alone: whether the question is asked without the turns, which were put aside.
        unread: what stands before the next question and was not read yet.
    """

    def __init__(self, model: DialogueModel, instructions: str = "") -> None:
        self._model, self.instructions = model, instructions
        self.turns: list[Turn] = []
        self.alone = False
        self._without: TurnContext | None = None
        self._context: Context[Any] | None = model.decoder.new_context()
        self._start: Mark = self.context.mark()  # where the question begins
        self._read: tuple[int, ...] = ()  # of the question
        self.unread = self.opening()

    def __len__(self) -> int:
        """How many turns are remembered."""
        return len(self.turns)

    @property
    def asking(self) -> TurnContext:
        """Where the question is asked: behind the turns, or without them."""
        if not self.alone:
            return self
        assert self._without is not None, "a question is asked alone where it was put"
        return self._without

    @property
    def context(self) -> Context[Any]:
        """What the model has read."""
        assert self._context is not None, "a dialogue that was closed reads and writes nothing"
        return self._context

    @property
    def length(self) -> int:
        """Positions before the question."""
        length, waiting = self._start
        return length + len(waiting) + len(self.unread.ids)

    @property
    def sees(self) -> bool:
        """Whether a picture is in the turns."""
        return any(turn.question.pixel_values is not None for turn in self.turns)

    @property
    def doubt(self) -> Doubt | None:
        """When answers are not trusted. With instructions a model is less sure of all that it says, and a checkpoint's
        limit was measured without."""
        return None if self.instructions else self._model.doubt

    def opening(self) -> Prompt:
        """What stands before the first turn: the start of the text, and a system message."""
        system = " ".join(filter(None, (self._model.reply_format.system_prompt, self.instructions)))
        rendered = self._model.prompt([{"role": "system", "content": system}])
        return Prompt(rendered.ids[: len(rendered.ids) - len(self._model.frame.assistant)])

    # --- reading ------------------------------------------------------------------------------------------------------
    def read_ahead(self) -> None:
        """Read what stands before the question now, while nobody waits."""
        if self.unread.ids:
            self._model.decoder.read(self.context, self.unread)
            self.unread = NOTHING
            self._start = self.context.mark()

    def read_on(self, so_far: Prompt, shed: int = 0) -> None:
        """Read what is new in the beginning of a question, while it is being asked.

        Args:
            shed: positions that it took beside before the beginning of its speech left.

        Raises:
            TooLongError: there is no room for it and a reply.
        """
        if len(so_far.ids) + shed > len(self._read):  # room is made now, and not when it is to be answered
            limits = self._model.config.reply_limits
            self._make_room_to_answer(so_far, ReplyConstraints(limits=limits), shed)
        self.read_ahead()
        self._go_back(so_far)
        new = _after(so_far, self._read)
        if new.ids:
            self._model.decoder.read(self.context, new)
        self._read = so_far.ids
        doubt = self.doubt
        if self.turns and doubt is not None and doubt.distracted is not None:
            without = self._apart()
            if len(so_far.ids) - _shared(so_far.ids, without._read) >= _AT_ONCE:
                without.read_on(so_far)

    def _apart(self) -> TurnContext:
        """Without the turns."""
        if self._without is None:
            self._without = TurnContext(self._model, self.instructions)
        return self._without

    def heard_tokens(self) -> list[int]:
        """CTC's likeliest reading of what was read of the question's speech."""
        frames = self.context.ctc
        return frames.likeliest() if self._read and frames is not None else []

    def rest(self, question: Prompt) -> Prompt:
        """What must still be read before ``question`` can be answered."""
        self._go_back(question)
        return self.unread + _after(question, self._read)

    def _go_back(self, question: Prompt) -> None:
        """Forget what was read of a question and is not how ``question`` begins: speech became longer than the model
        reads, or the question is another one."""
        shared = _shared(question.ids, self._read)
        if shared == len(self._read):
            return
        if not shared or self._model.token_ids.image in question.ids[shared:]:  # a picture is read whole
            self.rewind()
            return
        self._read = question.ids[:shared]
        self.context.rewind((self.length + shared, ()))

    def reask(self, question: Prompt) -> None:
        """Forget what was written behind ``question``, which stays read."""
        start = self.length
        self.unread, self._read, self._start = NOTHING, question.ids, (start, ())
        self.context.rewind((start + len(question.ids), ()))

    def reask_behind(self, question: Prompt, written: Sequence[int]) -> tuple[int, ...]:
        """As ``reask``, but the reply ``written`` stays for now: those of its tokens that were read."""
        self.unread, self._read, self._start = NOTHING, question.ids, (self.length, ())
        self.context.waiting = []
        return tuple(written[: self.context.length - self.length - len(question.ids)])

    def rewind(self) -> None:
        """Forget all since the last turn: what was read of a question, or a reply that failed."""
        self.bring_back()
        self.context.rewind(self._start)
        self._read = ()

    def put_aside(self) -> None:
        """Ask the question without the turns before it. They and what was written behind them stay as they are."""
        self._apart()
        self.alone = True

    def bring_back(self) -> None:
        """Ask behind the turns, and forget what was read and written without them."""
        self.alone = False
        if self._without is not None:
            self._without.rewind()

    # --- room ---------------------------------------------------------------------------------------------------------
    def grammar(self, question: Prompt, constraints: ReplyConstraints, shed: int = 0) -> Grammar:
        """What the reply to ``question`` may look like, its limits lowered to the room that there is.

        Forgets the oldest turns if a usual reply would have too little, or would have had before ``shed`` positions of
        the question left.

        Raises:
            TooLongError: the question alone is longer than the model's context.
        """
        overhead = self._make_room_to_answer(question, constraints, shed)
        room = self._model.decoder.max_length - self.length - len(question.ids)
        constraints = dataclasses.replace(constraints, limits=constraints.limits.within(room - overhead))
        return self._model.reply_format.grammar(self._model.table, constraints)

    def _make_room_to_answer(self, question: Prompt, constraints: ReplyConstraints, shed: int) -> int:
        """Room for a question and a usual reply; how many tokens frame the reply's content."""
        asked, limits = len(question.ids) + shed, constraints.limits
        overhead = self._model.reply_format.overhead(self._model.table, constraints)
        wanted = min(overhead + limits.usual, self._model.decoder.max_length // 2)
        self._make_room(asked + wanted, asked + overhead + limits.least)
        return overhead

    def _make_room(self, wanted: int, least: int) -> None:
        """Forget the oldest turns until ``wanted`` tokens of question and reply have room.

        Raises:
            TooLongError: there are not even ``least`` without earlier turns.
        """
        most = self._model.decoder.max_length
        fits = self.length + wanted <= most and self.length + least <= self._model.trained_context
        if fits or (not self.turns and self.length + least <= most):
            return
        opening = len(self.opening().ids)
        left = min(most - wanted, self._model.trained_context - least) - opening
        kept = newest(self.turns[1:], left)
        if opening + sum(map(len, kept)) + least > most:
            raise TooLongError("the question: longer than the model's context; make it shorter")
        self._rebuild(kept)

    def _rebuild(self, kept: list[Turn]) -> None:
        self.unread = self.opening()
        for turn in kept:
            self.unread = self.unread + turn.question + Prompt(turn.answer)
        self.context.rewind((0, ()))
        self.turns, self._read, self._start = kept, (), self.context.mark()

    def shorten(self) -> bool:
        """Forget the older half of the turns, and what was read of the question; False if there is none to forget."""
        if not self.turns:
            return False
        self._rebuild(self.turns[(len(self.turns) + 1) // 2 :])
        return True

    def instruct(self, instructions: str) -> None:
        """Another system message, from the beginning on; what was read of the question is forgotten.

        Raises:
            InputError: it has no room; the old one stays.
        """
        before, self.instructions = self.instructions, instructions
        left = self._model.decoder.max_length - self._model.config.reply_limits.usual - len(self.opening().ids)
        kept = newest(self.turns, left)
        if not kept and left < 0:
            self.instructions = before
            raise InputError("the instructions: longer than the model's context; make them shorter")
        self._without = None
        self._rebuild(kept)
        self.read_ahead()

    # --- turns --------------------------------------------------------------------------------------------------------
    def restart(self) -> None:
        """Forget all turns; nothing is read yet."""
        self._rebuild([])

    def add(self, question: Prompt, answer: Sequence[int]) -> None:
        """Keep a turn that the model has read and written; what the template puts behind an answer is read later."""
        behind = self._model.frame.assistant_end
        if self.alone:  # it takes the place of what was written behind the turns
            self.context.rewind((self.length + len(question.ids), ()))
            self.context.waiting = list(answer)
        self.bring_back()
        self.turns.append(Turn(question, (*answer, *behind)))
        self.unread, self._read, self._start = Prompt(behind), (), self.context.mark()
        if self.length > self._model.decoder.max_length:  # it had more room alone
            self._rebuild(newest(self.turns, self._model.decoder.max_length - len(self.opening().ids)))

    def recall(self, question: Prompt, answer: list[int]) -> None:
        """Keep a turn of an earlier dialogue. Raises: TooLongError: it is longer than the model's context."""
        whole = (*answer, *self._model.frame.assistant_end)
        length = len(question.ids) + len(whole)
        self._make_room(length, length)
        self.rewind()
        # Read together with what comes behind it: of many turns most are forgotten again.
        self.unread = self.unread + question + Prompt(whole)
        self.turns.append(Turn(question, whole))

    def break_off(self, question: Prompt, answer: list[int]) -> bool:
        """Keep ``answer`` instead of what the model is writing; False if it has not even read the question."""
        self.bring_back()
        asked = self.length + len(question.ids)
        if self.context.length < asked:
            return False
        self.context.rewind((asked, ()))
        self.context.waiting = list(answer)
        self.add(question, answer)
        return True

    def replace_last(self, answer: list[int]) -> None:
        """Put another answer in the place of the last turn's; without any tokens, forget the turn.

        What was read of a question since is forgotten.
        """
        self.read_ahead()
        turn = self.turns.pop()
        asked = self.length - len(turn.answer)
        if answer:
            self.context.rewind((asked, ()))
            self.context.waiting = list(answer)
            self.add(turn.question, answer)
        else:
            self.context.rewind((asked - len(turn.question.ids), ()))
            self._read, self._start = (), self.context.mark()

    def close(self) -> None:
        """Free the memory."""
        self.turns, self._context, self._without = [], None, None


def newest(turns: Sequence[Turn], positions: int) -> list[Turn]:
    """As many of the last turns as fit into so many positions."""
    kept = list(turns)
    while kept and sum(map(len, kept)) > positions:
        kept = kept[1:]
    return kept


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _after(prompt: Prompt, read: Sequence[int]) -> Prompt:
    """What of ``prompt`` comes after what was read; a picture is read whole, with the first tokens, or not at all."""
    return Prompt(prompt.ids[len(read) :]) if read else prompt


def beginning(reply: SpokenReply, units: float) -> SpokenReply:
    """The part of ``reply`` that was spoken with its first ``units``."""
    count = min(max(0, int(units + 1e-6)), len(reply.units))
    return dataclasses.replace(reply, text=text_heard(reply.text, count, len(reply.units)), units=reply.units[:count])


def text_heard(text: str, heard: int, units: int) -> str:
    """The beginning of ``text`` that was spoken with the first ``heard`` of its ``units``, to the end of a word."""
    share = heard / max(1, units, UNITS_PER_BYTE * len(text.encode()))
    words = text.split(" ")
    return " ".join(words[: max(1, round(share * len(words)))])
