"""What all routes share: the assistant, its sessions, the queue, and the threads in which the model works."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import torch

from emova.reply.parser import SpokenReply
from emova.session.config import SchedulerConfig
from emova.session.scheduler import Scheduler
from emova.session.session import Session
from emova.speech.style import StyleSet
from emova_app.server.config import ServerConfig
from emova_app.server.errors import ApiError
from emova_app.server.http.fetch import Fetcher
from emova_app.server.http.front import Front, new_id

if TYPE_CHECKING:
    from emova.assistant import Assistant

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")
KEPT_SECONDS = 3600
_SPLIT = 1 << 17
"""Numbers that torch shares out among its threads (from 32,768 on)."""
# Programs that were written for OpenAI's voices work unchanged.
ALIASES = {
    "female": ("alloy", "coral", "marin", "nova", "sage", "shimmer"),
    "male": ("ash", "ballad", "cedar", "echo", "fable", "onyx", "verse"),
}
VOICES = {alias: voice for voice, aliases in ALIASES.items() for alias in aliases}


def find_voice(styles: StyleSet, name: str | None, param: str = "voice") -> str:
    """Our voice for a client's; the first if None. Raises: ApiError."""
    if name is None:
        return styles.voices[0]
    wanted = name.strip().lower()
    voice = wanted if wanted in styles.voices else VOICES.get(wanted)
    if voice not in styles.voices:
        raise ApiError(400, f"{param}: no such voice; choose one of {', '.join(styles.voices)}", param=param)
    return voice


def check_style(styles: StyleSet, emotion: str | None, pitch: str | None, place: str = "") -> None:
    """See that the checkpoint has the words of a wish, which stands at ``place``. Raises: ApiError."""
    for param, word, words in (("emotion", emotion, styles.emotions), ("pitch", pitch, styles.pitches)):
        if word is not None and word not in words:
            message = f"{place}{param}: no such {param}; choose one of {', '.join(words)}"
            raise ApiError(400, message, param=f"{place}{param}")


class ReplyStore:
    """The last spoken replies, so that a client can refer to one by its id; each lives an hour."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._replies: OrderedDict[str, tuple[float, SpokenReply]] = OrderedDict()

    def keep(self, reply: SpokenReply, name: str = "") -> tuple[str, int]:
        """The id of a reply (a new one, or ``name``), and when it will be forgotten (Unix time, s)."""
        name, expires = name or new_id("audio"), time.time() + KEPT_SECONDS
        self._replies[name] = (expires, reply)
        while len(self._replies) > self._most:
            self._replies.popitem(last=False)
        return name, int(expires)

    def find(self, name: str, place: str = "audio.id") -> SpokenReply:
        """The reply ``name``, which a request names at ``place``. Raises: ApiError: unknown, or forgotten."""
        expires, reply = self._replies.get(name, (0.0, None))
        if reply is None or expires < time.time():
            raise ApiError(400, f"{place}: unknown or expired; send the reply's text instead", param=place)
        return reply


class _End:
    """What comes after the last item of an iterator."""


def _begin(together: threading.Barrier) -> None:
    together.wait()
    torch.ones(_SPLIT).add_(1)


def _next(items: Iterator[Result]) -> Result | _End:
    return next(items, _End())


class Service(Front):
    """Made once a server; ``close`` ends it.

    Args:
        assistant: an Assistant that runs on the streaming engine.
        fetcher: fetches pictures; made from the configuration if None.
        others: more of them by the names that clients give. All share the queue and the threads.

    Attributes:
        models: what works for each model by its name, this one first.
    """

    def __init__(
        self,
        config: ServerConfig,
        assistant: Assistant,
        fetcher: Fetcher | None = None,
        others: Mapping[str, Assistant] | None = None,
    ) -> None:
        super().__init__(config)
        places = config.max_active + config.max_realtime
        self.fetcher = fetcher or Fetcher(config.image_hosts)
        self.created = int(time.time())
        self._threads = ThreadPoolExecutor(2 * places, thread_name_prefix="emova")
        self._thread_count = 2 * places
        self._hold(assistant)
        self.models: dict[str, Service] = {config.model_name: self}
        for name, other in (others or {}).items():
            # Everything else is the same object: whoever is inside is inside once.
            beside = copy.copy(self)
            beside.config = replace(config, model_name=name)
            beside._hold(other)
            self.models[name] = beside

    def _hold(self, assistant: Assistant) -> None:
        config = self.config
        self.assistant = assistant
        # Places are freed in a thread, shortly after their requests have ended: hence the spare ones.
        places = config.max_active + config.max_realtime + config.max_active
        self.scheduler = Scheduler(assistant, SchedulerConfig(max_sessions=places, idle_seconds=config.idle_seconds))
        self.replies = ReplyStore(config.kept_replies)

    async def start(self) -> None:
        """Start all threads that the service will ever have, with those that torch keeps beside each: a server holds
        as many before its first request as after a million, and no request waits for one to be made."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(self._threads)
        together = threading.Barrier(self._thread_count)
        await asyncio.gather(*(self.run(_begin, together) for _ in range(self._thread_count)))

    async def run(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Call a function that takes long, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def each(self, items: Iterator[Result]) -> AsyncGenerator[Result, None]:
        """Take from a generator whose steps take long; the next step waits until this one's item is used.

        Leaving early closes the generator, which stops what it does.
        """
        loop = asyncio.get_running_loop()
        step: asyncio.Future[Result | _End] | None = None
        try:
            while True:
                step = loop.run_in_executor(self._threads, _next, items)
                item = await asyncio.shield(step)
                if isinstance(item, _End):
                    return
                yield item
        finally:
            if step is not None:
                await asyncio.shield(self._end(step, items))
                step = None  # its error holds this frame

    async def _end(self, step: asyncio.Future[Result | _End], items: Iterator[Result]) -> None:
        await asyncio.wait([step])
        if isinstance(items, Generator):
            await self.run(items.close)

    @asynccontextmanager
    async def session(self, voice: str, instructions: str = "") -> AsyncIterator[Session]:
        """A session for one request. Leaving it stops what it still does."""
        opening = asyncio.ensure_future(self.run(self.scheduler.open, voice, instructions))
        try:
            session = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(lambda done: done.exception() or self._threads.submit(done.result().close))
            raise
        try:
            yield session
        finally:
            # Closing waits for the round that is going on, so it must not hold up the event loop; nor may the place in
            # the queue be given away before.
            await asyncio.shield(self.run(session.close))

    def of(self, name: str) -> Service:
        """What works for the model ``name``. Raises: ApiError: 404, there is none."""
        if name not in self.models:
            message = f"the model does not exist; this server has {', '.join(self.models)}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return self.models[name]

    async def break_off(self) -> None:
        """Break off whatever the models do; their readers are told."""
        for each in self.models.values():
            await self.run(each.scheduler.close)

    def close(self) -> None:
        """End all threads."""
        for each in self.models.values():
            each.scheduler.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
