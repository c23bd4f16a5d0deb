"""The conversation of a realtime talk: its items, and what of them the session is to remember.

Items at the end are taken by the session as they come. Whatever else changes the conversation (an item in its middle, a
deletion, an answer of which less was heard) makes what the session remembers stale; it is made anew from the items
before the session hears or answers again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from emova.core.errors import InputError
from emova.decoding.protocol import Prompt
from emova.reply.calls import Call
from emova.reply.parser import SpokenReply
from emova.reply.tools import ToolResult
from emova.session.history import beginning
from emova.session.past import PastTurn
from emova.session.session import Session
from emova_app.server.api.media import read_picture
from emova_app.server.errors import ApiError
from emova_app.server.http.front import new_id
from emova_app.server.json_types import (
    AnyItem,
    ContentPart,
    call_item,
    is_call,
    is_message,
    message_item,
    output_item,
)
from emova_app.server.realtime import types
from emova_app.server.realtime.line import Line
from emova_app.server.realtime.sound import Incoming

MAX_ITEMS = 256
ROOT = "root"
GREETING = "Hello."
"""What an answer that nobody asked for is taken to answer: the model knows turns of two."""


@dataclass(eq=False)
class Entry:
    """An item, and what a session takes of it.

    Attributes:
        item: as the client sees it.
        words: that the user wrote.
        samples: what the user said, ``[T]`` each, as long as it was not answered.
        told: what the client read of it while it was said.
        units: the same, once it was.
        picture: that the user showed.
        reply: what was answered.
        seconds: how long the answer sounds, in s.
        answering: whether the answer is being given.
        instructs: a system message.
        result: what a tool gave back.
        refused: whether its answer was refused: the next question replaces it.
    """

    item: AnyItem
    words: str = ""
    samples: list[np.ndarray] = field(default_factory=list)
    told: str = ""
    units: tuple[int, ...] = ()
    picture: Prompt | None = None
    reply: SpokenReply | None = None
    seconds: float = 0.0
    answering: bool = False
    instructs: str = ""
    result: ToolResult | None = None
    refused: bool = False

    @property
    def id(self) -> str:
        """The item's id."""
        return self.item["id"]

    @property
    def nbytes(self) -> int:
        """About what its sound, its picture and its words take, in bytes."""
        picture = None if self.picture is None else self.picture.pixel_values
        sound = sum(samples.nbytes for samples in self.samples)
        return sound + (0 if picture is None else picture.nbytes) + 4 * _characters(self.item)

    @property
    def spoken(self) -> bool:
        """Whether the user said something."""
        return bool(self.samples or self.units)

    def forget(self, with_picture: bool = True) -> None:
        """Nothing of it goes to a session any more."""
        self.words, self.samples, self.units, self.reply, self.result = "", [], (), None, None
        if with_picture:
            self.picture = None


def _characters(value: object) -> int:
    """How long all texts in an item are."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_characters, parts))


def question_text(entries: Iterable[Entry]) -> str | None:
    """What was written in a question."""
    return "\n".join(entry.words for entry in entries if entry.words) or None


def past_of(entries: Sequence[Entry]) -> tuple[list[PastTurn], PastTurn]:
    """Turns of items, and the question at their end, without its sound that was not answered yet."""
    past: list[PastTurn] = []
    asked: list[Entry] = []
    for entry in entries:
        if entry.reply is None:
            asked.append(entry)
            continue
        turn = _turn(asked, entry.reply)
        asked = []
        before = past[-1].reply if past else None
        if turn.units or turn.text is not None or turn.results:
            past.append(turn)
        elif before is not None and turn.picture is None and bool(before.calls) == bool(entry.reply.calls):
            past[-1] = replace(past[-1], reply=_joined(before, entry.reply))
        else:
            past.append(replace(turn, text=GREETING))
    return past, _turn(asked, None)


def _turn(asked: Sequence[Entry], reply: SpokenReply | None) -> PastTurn:
    pictures = [entry.picture for entry in asked if entry.picture is not None]
    units = tuple(unit for entry in asked for unit in entry.units)
    results = tuple(entry.result for entry in asked if entry.result is not None)
    return PastTurn(pictures[-1] if pictures else None, units, question_text(asked), reply, results)


def _joined(first: SpokenReply, second: SpokenReply) -> SpokenReply:
    text = f"{first.text} {second.text}".strip()
    return replace(first, text=text, units=first.units + second.units, calls=first.calls + second.calls)


class Conversation:
    """The last 256 items, in their order.

    Attributes:
        entries: the items.
        stale: whether the session remembers something else than they say.
    """

    def __init__(self, line: Line) -> None:
        self._line, self._sender, self._session = line, line.sender, line.session
        self.entries: list[Entry] = []
        self.stale = False

    # --- looking ------------------------------------------------------------------------------------------------------
    @property
    def last(self) -> str | None:
        """The id of the last item."""
        return self.entries[-1].id if self.entries else None

    def find(self, item_id: str) -> Entry | None:
        """An item by its id."""
        return next((entry for entry in self.entries if entry.id == item_id), None)

    def _place(self, previous: str | None) -> int:
        """Where an item goes that is to stand behind another one. Raises: ApiError: there is none."""
        if previous is None:
            return len(self.entries)
        if previous == ROOT:
            return 0
        for index, entry in enumerate(self.entries):
            if entry.id == previous:
                return index + 1
        raise ApiError(400, "previous_item_id: no such item", param="previous_item_id", code="item_not_found")

    @property
    def question(self) -> list[Entry]:
        """The items that were asked and not answered yet."""
        asked: list[Entry] = []
        for entry in reversed(self.entries):
            if entry.reply is not None or entry.answering:
                break
            if entry.words or entry.spoken or entry.picture is not None or entry.result is not None:
                asked.append(entry)
        return asked[::-1]

    @property
    def instructions(self) -> str:
        """The system message: the session's, those of the items, and the tools."""
        return self._line.settings.told(self.with_items(self._line.settings.instructions))

    def with_items(self, instructions: str) -> str:
        """The system message of other instructions, and those of the items."""
        return "\n".join(filter(None, (instructions, *(entry.instructs for entry in self.entries)))).strip()

    # --- items --------------------------------------------------------------------------------------------------------
    async def create(self, item: types.Item | types.CallItem | types.OutputItem, previous: str | None) -> None:
        """Take a client's item. Raises: InputError, ApiError: it is unusable, or its place does not exist."""
        if item.id is not None and self.find(item.id) is not None:
            message = "item.id: there is such an item already"
            raise ApiError(400, message, param="item.id", code="item_create_duplicate_item_id")
        index = self._place(previous)
        of_user = isinstance(item, types.Item) and item.role == "user"
        if of_user:
            await self.replace_refused()
            index = self._place(previous)
        at_end = index == len(self.entries)
        entry = await self.read(item, self._session, live=at_end and not self.stale)
        try:
            self.check_room([*self.entries, entry])
        except ApiError:
            self.stale = True  # the session may have taken it already
            raise
        self.stale = self.stale or not at_end or not of_user
        await self.add(entry, index)

    def check_room(self, entries: Iterable[Entry]) -> None:
        """See that they hold no more than they may together. Raises: ApiError."""
        most = self._line.service.config.max_conversation_bytes
        if sum(entry.nbytes for entry in entries) > most:
            message = f"the conversation: its items hold more than {most >> 20} MiB; delete some, or send less"
            raise ApiError(413, message, code="conversation_too_large")

    async def read(
        self, item: types.Item | types.CallItem | types.OutputItem, session: Session, live: bool = False
    ) -> Entry:
        """What a client's item holds; pictures are shown to ``session``, and if ``live``, sounds played to it.

        Raises:
            InputError: a part is unusable.
        """
        item_id = item.id or new_id("item")
        if isinstance(item, types.CallItem):
            call = Call.from_json(item.name, item.arguments)
            shown = call_item(item_id, item.call_id or new_id("call"), call.name, item.arguments)
            return Entry(shown, reply=SpokenReply("", "", "", "", (), (call,)))
        if isinstance(item, types.OutputItem):
            if item.output:
                self._line.service.assistant.check_text(item.output)
            result = ToolResult(self._called(item.call_id), item.output)
            return Entry(output_item(item_id, item.call_id, item.output), result=result)
        text = "\n".join(part.text or part.transcript or "" for part in item.content).strip()
        if item.role == "user":
            message = message_item(item_id, "user", [])
            entry = Entry(message)
            for part in item.content:
                message["content"].append(await self._read_part(part, entry, session, live))
            return entry
        if not text:
            raise InputError("item.content: no text")
        if item.role == "assistant":
            style = self._line.settings.styles.parse(None, None, None)
            reply = SpokenReply("", self._line.service.assistant.check_text(text), style.emotion, style.pitch, ())
            return Entry(message_item(item_id, "assistant", [{"type": "output_text", "text": text}]), reply=reply)
        if len(self.with_items(self._line.settings.instructions)) + len(text) > self._max_text:
            raise InputError("item.content: the instructions are too long; shorten them")
        return Entry(message_item(item_id, "system", [{"type": "input_text", "text": text}]), instructs=text)

    def _called(self, call_id: str) -> str:
        """The tool of a call. Raises: ApiError: there is no such call."""
        for entry in self.entries:
            if is_call(entry.item) and entry.item["call_id"] == call_id:
                return entry.item["name"]
        raise ApiError(400, "item.call_id: no such call", param="item.call_id", code="invalid_value")

    @property
    def _max_text(self) -> int:
        return self._line.service.assistant.config.max_text_characters

    async def _read_part(self, part: types.Content, entry: Entry, session: Session, live: bool) -> ContentPart:
        line = self._line
        if part.type == "input_text" and part.text:
            before = [entry.words] if entry.words or not live else [question_text(self.question) or ""]
            line.service.assistant.check_text("\n".join(filter(None, (*before, part.text))))
            entry.words = "\n".join(filter(None, (entry.words, line.service.assistant.check_text(part.text))))
            return {"type": "input_text", "text": part.text}
        if part.type == "input_image" and part.image_url:
            picture = await read_picture(part.image_url, line.service.fetcher)
            await line.service.run(session.show, picture)
            entry.picture = session.picture
            return {"type": "input_image"}
        if part.type == "input_audio" and part.audio:
            incoming = Incoming(line.settings.hears, line.rate, line.service.assistant.config.audio_limits.max_seconds)
            samples = await line.service.run(incoming.whole, part.audio)
            if sum(map(len, entry.samples)) + len(samples) > line.max_samples:
                raise InputError("item.content: more sound than one question may have; send less")
            if live:
                await self._hear(samples)
            entry.samples.append(samples)
            return {"type": "input_audio", "transcript": part.transcript}
        raise InputError("item.content: a user's item holds input_text, input_audio or input_image, none of them empty")

    async def _hear(self, samples: np.ndarray) -> None:
        try:
            await self._line.service.run(self._session.hear, samples)
        except InputError:
            self.drop_question()
            raise

    async def add(self, entry: Entry, index: int | None = None) -> None:
        """Put an item in its place (the end), and tell the client. Raises: WebSocketDisconnect."""
        previous = self.put(entry, index)
        await self._sender.emit("conversation.item.added", previous_item_id=previous, item=entry.item)
        await self._sender.emit("conversation.item.done", previous_item_id=previous, item=entry.item)

    def put(self, entry: Entry, index: int | None = None) -> str | None:
        """Put an item in its place (the end); the id of the one before it."""
        index = len(self.entries) if index is None else index
        previous = self.entries[index - 1].id if index else None
        self.entries.insert(index, entry)
        del self.entries[:-MAX_ITEMS]
        return previous

    def replace(self, entry: Entry, entries: Sequence[Entry]) -> None:
        """Put others in the place of an item, if it is still there."""
        if entry in self.entries:
            index = self.entries.index(entry)
            self.entries[index : index + 1] = entries

    async def retrieve(self, item_id: str) -> None:
        """Show an item. Raises: ApiError: there is none."""
        entry = self.find(item_id)
        if entry is None:
            raise ApiError(404, "item_id: no such item", param="item_id", code="item_retrieve_invalid_item_id")
        await self._sender.emit("conversation.item.retrieved", item=entry.item)

    async def delete(self, item_id: str) -> None:
        """Forget an item: it is not answered any more. Raises: ApiError: there is none."""
        entry = self.find(item_id)
        if entry is None:
            raise ApiError(404, "item_id: no such item", param="item_id", code="item_delete_invalid_item_id")
        self.entries.remove(entry)
        self.stale = True
        await self._sender.emit("conversation.item.deleted", item_id=item_id)

    # --- what was heard of answers ------------------------------------------------------------------------------------
    def heard(self, entry: Entry, seconds: float) -> None:
        """Only so much of an earlier answer was heard."""
        if entry.reply is None:
            return
        unit_rate = self._line.service.assistant.voice.detokenizer.unit_rate
        units = seconds * unit_rate
        kept = beginning(entry.reply, units)
        if len(kept.units) < len(entry.reply.units):
            self.remember(entry, kept if kept.units else None)
            self.stale = True

    def remember(self, entry: Entry, reply: SpokenReply | None) -> None:
        """What is remembered of an answer; without any, its question is forgotten but for its picture."""
        entry.answering = False
        entry.reply = reply
        if reply is None:
            for asked in self._asked_before(entry):
                asked.forget(with_picture=False)
        elif is_message(entry.item):
            for part in entry.item["content"]:
                part["transcript" if "transcript" in part else "text"] = reply.text

    def fail(self, entry: Entry) -> None:
        """An answer failed: nothing of its question is answered later."""
        entry.answering, entry.reply = False, None
        for asked in self._asked_before(entry):
            asked.forget()

    def _asked_before(self, entry: Entry) -> list[Entry]:
        if entry not in self.entries:
            return []
        before = self.entries[: self.entries.index(entry)]
        start = max((index + 1 for index, each in enumerate(before) if each.reply is not None), default=0)
        return before[start:]

    def prune(self) -> None:
        """Let go what the session has forgotten."""
        turns = len(self._session)
        for entry in reversed(self.entries):
            if entry.reply is not None:
                turns -= 1
            if turns < 0 and not entry.instructs:
                entry.forget()

    # --- the question -------------------------------------------------------------------------------------------------
    def asked(self, question: Sequence[Entry], units: Sequence[int]) -> None:
        """A question was read: its sound as units, in place of its samples."""
        made = sum(len(entry.units) for entry in question)
        new = tuple(units)[made:]
        length = sum(len(samples) for entry in question for samples in entry.samples)
        position = 0
        for entry in question:
            if entry.samples:
                start, position = position, position + sum(map(len, entry.samples))
                entry.units += new[start * len(new) // length : position * len(new) // length]
                entry.samples = []

    def drop_question(self) -> None:
        """The session has dropped the question; nothing of it may linger here."""
        for entry in self.question:
            entry.forget()

    def refuse(self) -> None:
        """The answer to the question was refused: it may be asked for again, until another question comes."""
        for entry in self.question:
            entry.refused = True

    async def replace_refused(self) -> None:
        """Another question comes: one whose answer was refused is no part of it. Raises: WebSocketDisconnect."""
        for entry in [entry for entry in self.question if entry.refused]:
            await self.delete(entry.id)

    # --- the session --------------------------------------------------------------------------------------------------
    async def settle(self, heard: Sequence[np.ndarray] = ()) -> None:
        """Let the session remember what the items say, and the sound that is no item yet.

        Raises:
            InputError: it is too much; the question is dropped.
        """
        if not self.stale:
            return
        self.stale = False
        instructions = self.instructions
        past, asked = past_of(self.entries)
        sounds = [samples for entry in self.question for samples in entry.samples]

        def restore() -> None:
            if self._session.instructions != instructions:
                self._session.instruct(instructions)
            self._session.restore(past, asked)
            for samples in (*sounds, *heard):
                self._session.hear(samples)

        try:
            await self._line.service.run(restore)
        except InputError:
            self.drop_question()
            raise
