"""One realtime connection: what the client sends, turn taking, and interruption."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import soxr
from fastapi import WebSocket, WebSocketDisconnect
from pydantic import ValidationError

from emova.core.errors import InputError
from emova.reply.parser import SpokenReply
from emova.session.session import Session
from emova.speech.vad import Going, Started, Stopped, Turn, TurnTaking
from emova_app.pcm import from_pcm
from emova_app.server.api.media import from_base64, read_picture
from emova_app.server.errors import ApiError, as_api_error
from emova_app.server.http.front import new_id
from emova_app.server.http.json_body import JsonLimits, read_json
from emova_app.server.json_types import ContentPart, JsonObject
from emova_app.server.realtime import types
from emova_app.server.realtime.answering import RATE, Answering
from emova_app.server.realtime.backlog import MAX_PIECES, Action, Backlog, Flooded
from emova_app.server.realtime.sending import Items, Sender
from emova_app.server.realtime.settings import Settings, TurnDetection, chosen_voice
from emova_app.server.service import Service, check_style


class Connection:
    """Talks with one client on one session.

    Its own memory is bounded: sound (as long as one question may be), items (the last 256), and what waits for an
    answer's end (a Backlog). All of it is let go when the talk ends, without waiting for the garbage collector.
    """

    def __init__(self, socket: WebSocket, service: Service, session: Session) -> None:
        self.socket, self.service, self.session = socket, service, session
        self.id, self.conversation = new_id("sess"), new_id("conv")
        styles = service.assistant.styles
        self.settings = Settings(styles, styles.voices[0])
        self.rate: int = service.assistant.speech_tokenizer.sample_rate
        self.max_samples = int(service.assistant.config.audio_limits.max_seconds * self.rate)
        self.sender = Sender(socket, service.metrics)
        self.items = Items(self.sender)
        self.answering: Answering | None = None
        self._task: asyncio.Task[None] | None = None
        self._busy = False  # whether an answer is being given, or what waited for its end is being done
        self._deferred = Backlog(service.config.max_deferred_bytes, self.max_samples)
        self._event_bytes = 0  # of the event that is being taken
        self._turns: TurnTaking | None = None
        self._resampler = soxr.ResampleStream(RATE, self.rate, 1, dtype="float32")
        self._words: list[str] = []
        self._spoken_item: str | None = None
        self._new_buffer()
        self._committed: list[np.ndarray] = []

    def _new_buffer(self) -> None:
        self._buffer: list[np.ndarray] = []  # heard by the session, not committed yet
        self._buffer_item = new_id("item")

    # --- the loop -----------------------------------------------------------------------------------------------------
    async def serve(self) -> None:
        """Until the client leaves, is idle for too long, or the server ends."""
        await self.sender.emit("session.created", session=self._session())
        draining = asyncio.create_task(self.service.draining.wait())
        reading: asyncio.Task[str] | None = None
        try:
            while True:
                reading = reading or asyncio.create_task(self.socket.receive_text())
                done, _ = await asyncio.wait(
                    [reading, draining], timeout=self.service.config.idle_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if reading in done:
                    # Raised here, the task's error would hold this frame, and with it the task.
                    error = reading.exception()
                    if isinstance(error, WebSocketDisconnect | KeyError):  # KeyError: a binary message
                        return
                    text, reading = reading.result(), None
                    done.clear()
                    await self._take(text)
                    del text  # it may be large, and the next one may be long in coming
                elif draining in done:
                    await self._end("the server is shutting down", 1001)
                    return
                elif not self._busy:
                    await self._end("the session was idle for too long", 1000)
                    return
        except WebSocketDisconnect:
            pass
        except Flooded:
            message = "too much was sent during an answer, and more after the refusals; wait for response.done"
            refusal = ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded")
            with contextlib.suppress(WebSocketDisconnect):
                await self.sender.error(refusal, None)
                await self.socket.close(1008, message)
        finally:
            await _ended([task for task in (draining, reading, self._task) if task is not None])
            self._let_go()

    def _let_go(self) -> None:
        """Forget all that leads back here, so that the connection's memory is free at once."""
        self._deferred.clear()
        self.answering = self._task = None
        self._drop_question()

    async def _end(self, message: str, code: int) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])
        await self.sender.error(ApiError(503, message, kind="server_error", code="session_ended"), None)
        await self.socket.close(code)

    async def _take(self, text: str) -> None:
        event_id: str | None = None
        try:
            data = text.encode()
            self._event_bytes = len(data)
            content = await read_json(data, JsonLimits(self.service.config.max_json_bytes))
            del data
            given = content.get("event_id") if isinstance(content, dict) else None
            event_id = given if isinstance(given, str) and len(given) <= 200 and given.isprintable() else None
            event = types.CLIENT_EVENT.validate_python(content)
            await self._handle(event)
        except (WebSocketDisconnect, Flooded):
            raise
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = [str(part) for part in first["loc"][1:] if len(str(part)) < 40 and str(part).isidentifier()]
            what = ".".join(place) or "type"
            message = f"{what}: missing, unknown, or not a value that it can have"
            await self.sender.error(ApiError(400, message, param=what, code="invalid_event"), event_id)
        except Exception as error:
            await self.sender.error(as_api_error(error), event_id)

    async def _handle(self, event: types.ClientEvent) -> None:
        match event:
            case types.SessionUpdate():
                await self._update(event)
            case types.Append():
                await self._append(event)
            case types.Commit():
                await self._when_free(self._commit)
            case types.Clear():
                await self._clear()
            case types.ItemCreate():
                await self._create_item(event)
            case types.ItemTruncate():
                await self._truncate(event)
            case types.ItemRetrieve():
                await self._retrieve(event)
            case types.ResponseCreate():
                await self._create_response(event)
            case types.ResponseCancel():
                await self._cancel_response(event)

    # --- settings -----------------------------------------------------------------------------------------------------
    def _session(self) -> JsonObject:
        return {"id": self.id, **self.settings.shown(self.service.config.model_name)}

    async def _update(self, event: types.SessionUpdate) -> None:
        chosen = self.settings.changed(event.session, self.service.config.model_name)
        if chosen.instructions != self.settings.instructions:
            if len(chosen.instructions) > self.service.assistant.config.max_text_characters:
                raise InputError("session.instructions: too long; shorten them")
            await self.service.run(self.session.instruct, chosen.instructions)
        if chosen.turns != self.settings.turns:
            self._turns = None
        self.settings, self.session.voice = chosen, chosen.voice
        await self.sender.emit("session.updated", session=self._session())

    # --- sound --------------------------------------------------------------------------------------------------------
    def _samples(self, audio: str, resampler: soxr.ResampleStream | None = None) -> np.ndarray:
        if len(audio) > 4 * RATE * 2 * self.service.assistant.config.audio_limits.max_seconds / 3 + 8:
            raise InputError("the audio: more than one question may have; send less at once")
        data = from_base64(audio, "the audio")
        if len(data) % 2:
            raise InputError("the audio: half a sample; send 16-bit samples")
        samples = from_pcm(data)
        if resampler is not None:
            return resampler.resample_chunk(samples)
        return soxr.resample(samples, RATE, self.rate)

    async def _append(self, event: types.Append) -> None:
        samples = await self.service.run(self._samples, event.audio, self._resampler)
        if self.settings.turns is None:
            await self._hear(samples)
            return
        self._turns = self._turns or TurnTaking(self.settings.turns.config)
        for turn in await self.service.run(self._turns.step, samples):
            await self._take_turn(turn, self.settings.turns)

    async def _take_turn(self, turn: Turn, detection: TurnDetection) -> None:
        if isinstance(turn, Started):
            await self.sender.emit(
                "input_audio_buffer.speech_started", audio_start_ms=turn.at_ms, item_id=self._buffer_item
            )
            if detection.interrupt_response:
                await self._interrupt("turn_detected")
            await self._hear(turn.samples)
        elif isinstance(turn, Going):
            await self._hear(turn.samples)
        elif isinstance(turn, Stopped):
            await self.sender.emit(
                "input_audio_buffer.speech_stopped", audio_end_ms=turn.at_ms, item_id=self._buffer_item
            )
            await self._when_free(lambda: self._end_turn(detection.create_response))

    async def _end_turn(self, answer: bool) -> None:
        if self._buffer:
            await self._commit()
            if answer:
                await self._respond(types.ResponseOptions())

    async def _hear(self, samples: np.ndarray) -> None:
        """Let the session hear; while it answers, the sound waits. Raises: InputError: there is too much of it."""
        if not self._busy:
            await self._hear_now(samples)
        elif len(samples):
            self._deferred.add_sound(functools.partial(self._hear_now, samples), len(samples), samples.nbytes)

    async def _hear_now(self, samples: np.ndarray) -> None:
        try:
            await self.service.run(self.session.hear, samples)
        except InputError:
            # The session has dropped the whole question; nothing of it may linger here.
            self._drop_question()
            raise
        self._buffer.append(samples)
        if len(self._buffer) > MAX_PIECES:  # an array takes a hundred bytes, however short
            self._buffer = [np.concatenate(self._buffer)]

    def _drop_question(self) -> None:
        self._new_buffer()
        self._committed, self._words, self._spoken_item = [], [], None

    async def _commit(self) -> None:
        if sum(map(len, self._buffer)) < self.rate // 10:
            raise ApiError(400, "the audio buffer holds less than 100 ms", code="input_audio_buffer_commit_empty")
        item_id = self._spoken_item = self._buffer_item
        self._committed += self._buffer
        self._new_buffer()
        previous = self.items.last
        await self.sender.emit("input_audio_buffer.committed", previous_item_id=previous, item_id=item_id)
        await self.items.add(item_id, "user", [{"type": "input_audio", "transcript": None}])

    async def _clear(self) -> None:
        self._turns = None
        await self._when_free(self._clear_now)

    async def _clear_now(self) -> None:
        await self._take_back()
        self._new_buffer()
        await self.sender.emit("input_audio_buffer.cleared")

    async def _take_back(self) -> None:
        """Let the session forget the sound that was not committed."""
        if self._buffer:
            await self.service.run(self.session.unhear)
            for samples in self._committed:
                await self.service.run(self.session.hear, samples)

    # --- items --------------------------------------------------------------------------------------------------------
    async def _create_item(self, event: types.ItemCreate) -> None:
        if event.previous_item_id is not None and event.previous_item_id != self.items.last:
            raise ApiError(400, "previous_item_id: items are added at the end only", param="previous_item_id")
        if event.item.id in self.items:
            raise ApiError(400, "item.id: there is such an item already", param="item.id")
        await self._when_free(lambda: self._add(event.item))

    async def _add(self, item: types.Item) -> None:
        text = "\n".join(part.text or part.transcript or "" for part in item.content).strip()
        shown: list[ContentPart] = []
        if item.role == "user":
            for part in item.content:
                shown.append(await self._add_content(part))
        elif not text:
            raise InputError("item.content: no text")
        elif item.role == "system":
            both = f"{self.session.instructions}\n{text}".strip()
            if len(both) > self.service.assistant.config.max_text_characters:
                raise InputError("item.content: the instructions are too long; shorten them")
            await self.service.run(self.session.instruct, both)
            shown = [{"type": "input_text", "text": text}]
        else:
            asked = "\n".join(self._words)
            style = self.settings.styles.parse(None, None, None)
            said = SpokenReply(asked, self.service.assistant.check_text(text), style.emotion, style.pitch, ())
            await self.service.run(self.session.recall, said, asked or None)
            self._drop_question()
            shown = [{"type": "output_text", "text": text}]
        await self.items.add(item.id or new_id("item"), item.role, shown)

    async def _add_content(self, part: types.Content) -> ContentPart:
        if part.type == "input_text" and part.text:
            words = self.service.assistant.check_text("\n".join([*self._words, part.text]))
            self._words = [words]
            return {"type": "input_text", "text": part.text}
        if part.type == "input_image" and part.image_url:
            picture = await read_picture(part.image_url, self.service.fetcher)
            await self.service.run(self.session.show, picture)
            return {"type": "input_image"}
        if part.type == "input_audio" and part.audio:
            samples = await self.service.run(self._samples, part.audio)
            await self.service.run(self.session.hear, samples)
            self._committed.append(samples)
            return {"type": "input_audio", "transcript": None}
        raise InputError("item.content: a user's item holds input_text, input_audio or input_image, none of them empty")

    async def _truncate(self, event: types.ItemTruncate) -> None:
        answering = self.answering
        if answering is None or event.item_id != answering.item_id:
            raise ApiError(400, "item_id: not the last answer of this session", param="item_id", code="item_not_found")
        if event.audio_end_ms > answering.sent_seconds * 1000 + 1:
            raise ApiError(400, "audio_end_ms: longer than the answer's sound", param="audio_end_ms")
        answering.stop("client_cancelled")
        await self.service.run(self.session.truncate, event.audio_end_ms / 1000)
        place = {"content_index": event.content_index, "audio_end_ms": event.audio_end_ms}
        await self.sender.emit("conversation.item.truncated", item_id=event.item_id, **place)

    async def _retrieve(self, event: types.ItemRetrieve) -> None:
        if event.item_id not in self.items:
            raise ApiError(404, "item_id: no such item", param="item_id", code="item_not_found")
        await self.sender.emit("conversation.item.retrieved", item=self.items[event.item_id])

    # --- answers ------------------------------------------------------------------------------------------------------
    @property
    def _answering_now(self) -> bool:
        return self._busy and self.answering is not None and not self.answering.done

    async def _when_free(self, action: Action) -> None:
        """Now, or when the answer that is being given has ended."""
        if not self._busy:
            await action()
        else:
            self._deferred.add(action, self._event_bytes)

    async def _create_response(self, event: types.ResponseCreate) -> None:
        if self._answering_now and not len(self._deferred):
            raise ApiError(
                400,
                "an answer is being given; cancel it or wait for its end",
                code="conversation_already_has_active_response",
            )
        await self._when_free(lambda: self._respond(event.response or types.ResponseOptions()))

    async def _respond(self, options: types.ResponseOptions) -> None:
        if not (self._words or self._committed):
            raise ApiError(400, "there is no question; add an item or commit sound first", code="empty_conversation")
        # What is not committed is no part of this question: it is heard again after the answer.
        await self._take_back()
        for samples in reversed(self._buffer):
            self._deferred.put_first(functools.partial(self._hear_now, samples), len(samples), samples.nbytes)
        self._buffer = []
        chosen, usual = self.settings, self.service.assistant.config.reply_limits
        voice = chosen.voice
        if options.audio is not None and options.audio.output is not None and options.audio.output.voice is not None:
            voice = chosen_voice(chosen.styles, options.audio.output.voice)
        check_style(chosen.styles, options.emotion, options.pitch)
        spoken = "audio" in (options.output_modalities or chosen.modalities)
        wanted = self._spoken_item if chosen.transcription else None
        self.answering = answering = Answering(
            self.service, self.sender.emit, self.conversation, spoken, options.metadata, wanted, self.items.last
        )
        text = "\n".join(self._words) or None
        self._words, self._committed, self._spoken_item = [], [], None
        # Without sound, one unit is written: a reply has at least one.
        limits = usual if spoken else replace(usual, max_units=1)
        self.session.voice = voice

        async def answer() -> None:
            try:
                asked = await self.service.run(
                    lambda: self.session.ask(
                        text,
                        emotion=options.emotion or chosen.emotion,
                        pitch=options.pitch or chosen.pitch,
                        limits=limits,
                    )
                )
                if answering.stopped:
                    await self.service.run(self.session.cancel, 0.0)
                async with asyncio.timeout(self.service.config.deadline_seconds):
                    await answering.tell(asked)
            except WebSocketDisconnect:
                raise
            except TimeoutError:
                await self.sender.error(
                    ApiError(504, "the answer took too long", kind="server_error", code="timeout"), None
                )
            except Exception as error:
                await self.sender.error(as_api_error(error), None)
            finally:
                answering.done = True
                self.items.remember(answering.item)
            await self._go_on()

        self._busy, self._task = True, asyncio.create_task(answer())

    async def _go_on(self) -> None:
        """What waited for the answer's end, in its order; what comes meanwhile waits behind it."""
        ended = self.answering
        self._deferred.forgive()
        while len(self._deferred):
            try:
                await self._deferred.next()()
            except WebSocketDisconnect:
                raise
            except Exception as error:
                await self.sender.error(as_api_error(error), None)
            if self.answering is not ended:
                return  # another answer has begun, and goes on with the rest
        self._busy = False

    async def _interrupt(self, reason: str) -> None:
        """Stop the answer, or its sound that still plays, and remember only what was heard of it."""
        answering, task, busy = self.answering, self._task, self._answering_now
        if answering is None or task is None or not (busy or answering.playing):
            return
        answering.stop(reason)
        await self.service.run(self.session.cancel, answering.heard_seconds())
        self.service.metrics.cancelled.labels(reason).inc()
        if busy:
            await asyncio.wait([task])

    async def _cancel_response(self, event: types.ResponseCancel) -> None:
        answering = self.answering
        wrong = event.response_id is not None and (answering is None or event.response_id != answering.id)
        if not self._answering_now or wrong:
            raise ApiError(400, "there is no such answer being given", code="response_cancel_not_active")
        await self._interrupt("client_cancelled")


async def _ended(tasks: Sequence[asyncio.Task[object]]) -> None:
    """Cancel tasks and wait for their ends; what they raise has been told, or is of the client's leaving."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
