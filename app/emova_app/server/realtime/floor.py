"""Who speaks: one answer at a time, what waits for its end, and interruption."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from fastapi import WebSocketDisconnect

from emova.events import SessionEvent
from emova_app.server.errors import ApiError, as_api_error
from emova_app.server.realtime.answering import Answering
from emova_app.server.realtime.backlog import Action, Backlog
from emova_app.server.realtime.conversation import Conversation, Entry
from emova_app.server.realtime.line import Line

Asked = AbstractAsyncContextManager[Iterator[SessionEvent]]
_LATE = ApiError(504, "the answer took too long", kind="server_error", code="timeout")


@dataclass(frozen=True)
class Answer:
    """One answer: how it is told, and its item, which None keeps out of the conversation.

    Attributes:
        ours: whether the talk's own session gives it.
    """

    telling: Answering
    entry: Entry | None
    ours: bool


class Floor:
    """Given to one answer after the other.

    Attributes:
        answer: the last one.
        deferred: what waits for its end.
        event_bytes: size of the client's event that is being taken.
    """

    def __init__(self, line: Line, conversation: Conversation) -> None:
        self._line, self._conversation = line, conversation
        self.answer: Answer | None = None
        self.task: asyncio.Task[None] | None = None
        self.busy = False  # whether an answer is being given, or what waited for its end is being done
        self.deferred = Backlog(line.service.config.max_deferred_bytes, line.max_samples)
        self.event_bytes = 0

    @property
    def answering(self) -> bool:
        """Whether an answer is being given."""
        return self.busy and self.answer is not None and not self.answer.telling.done

    async def when_free(self, action: Action) -> None:
        """Now, or when the answer that is being given has ended. Raises: ApiError, Flooded: too much waits."""
        if not self.busy:
            await action()
        else:
            self.deferred.add(action, self.event_bytes)

    def begin(self, answer: Answer, ask: Callable[[], Asked]) -> None:
        """Give an answer; ``ask`` opens its events."""
        self.answer, self.busy = answer, True
        self.task = asyncio.create_task(self._give(answer, ask))

    async def _give(self, answer: Answer, ask: Callable[[], Asked]) -> None:
        telling, sender = answer.telling, self._line.sender
        try:
            async with ask() as events, asyncio.timeout(self._line.service.config.deadline_seconds):
                if telling.stopped and answer.ours:
                    await self._line.service.run(self._line.session.cancel, 0.0)
                await telling.tell(events)
        except WebSocketDisconnect:
            raise
        except TimeoutError:
            await sender.error(_LATE, None)
            await telling.fail(_LATE)
        except Exception as error:
            told = as_api_error(error)
            await sender.error(told, None)
            await telling.fail(told)
        finally:
            telling.done = True
            self._keep(answer)
        await self._go_on()

    def _keep(self, answer: Answer) -> None:
        telling, entry, conversation = answer.telling, answer.entry, self._conversation
        if entry is None:
            return
        entry.seconds = telling.sent_seconds
        if telling.items:
            entry.item = telling.items[0]
        if telling.status == "failed":
            conversation.fail(entry)
        else:
            conversation.remember(entry, self._line.session.last_reply if answer.ours else telling.reply)
        conversation.replace(entry, [entry, *map(Entry, telling.items[1:])] if telling.items else [])
        if answer.ours:
            conversation.prune()
        else:
            conversation.stale = True

    async def _go_on(self) -> None:
        """What waited for the answer's end, in its order; what comes meanwhile waits behind it."""
        ended = self.answer
        self.deferred.forgive()
        while len(self.deferred):
            try:
                await self.deferred.next()()
            except WebSocketDisconnect:
                raise
            except Exception as error:
                await self._line.sender.error(as_api_error(error), None)
            if self.answer is not ended:
                return  # another answer has begun, and goes on with the rest
        self.busy = False

    async def interrupt(self, reason: str) -> None:
        """Stop the answer, or its sound that still plays, and remember only what was heard of it."""
        answer, task, busy = self.answer, self.task, self.answering
        if answer is None or task is None or not (busy or answer.telling.playing):
            return
        answer.telling.stop(reason)
        await self._heard(answer, answer.telling.heard_seconds())
        self._line.service.metrics.cancelled.labels(reason).inc()
        if busy:
            await asyncio.wait([task])

    async def truncate(self, entry: Entry, seconds: float) -> None:
        """Remember only so much of an answer, which is told no further."""
        answer = self.answer
        if answer is not None and answer.entry is entry:
            answer.telling.stop("client_cancelled")
            await self._heard(answer, seconds, exactly=True)
        else:
            self._conversation.heard(entry, seconds)

    async def _heard(self, answer: Answer, seconds: float, exactly: bool = False) -> None:
        session, run = self._line.session, self._line.service.run
        # Where it is stale, the session remembers another past, in which the answer may not be the last.
        if not answer.ours or (self._conversation.stale and answer.telling.done):
            if answer.entry is not None:
                self._conversation.heard(answer.entry, seconds)
            return
        await run(session.truncate if exactly else session.cancel, seconds)
        if answer.telling.done and answer.entry is not None:
            self._conversation.remember(answer.entry, session.last_reply)

    async def ended(self) -> None:
        """Wait for the answer's end."""
        if self.task is not None:
            await asyncio.wait([self.task])

    def let_go(self) -> None:
        """Forget all that leads back here, so that the memory is free at once."""
        self.deferred.clear()
        self.answer = self.task = None
