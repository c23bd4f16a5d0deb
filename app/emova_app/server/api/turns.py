"""A request's messages as turns: what was asked, shown, said and told, and what was answered to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from emova.reply.calls import Call
from emova.reply.parser import SpokenReply
from emova.reply.tools import ToolResult
from emova_app.server.api.chat_types import (
    AssistantMessage,
    ImagePart,
    ImageUrl,
    InputAudio,
    Message,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)
from emova_app.server.errors import ApiError, about
from emova_app.server.service import Service, check_style


@dataclass(frozen=True)
class Medium:
    """A picture's URL or a sound's base64, and how errors call it."""

    content: str
    place: str


@dataclass
class Question:
    """One user's turn: at most one picture, sound, and words; and before them, what tools gave back."""

    picture: Medium | None = None
    sounds: list[Medium] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    results: list[ToolResult] = field(default_factory=list)
    unanswered: bool = False

    @property
    def text(self) -> str | None:
        """All words."""
        return "\n".join(self.words) or None

    @property
    def asks(self) -> bool:
        """Whether there is anything to answer."""
        return bool(self.words or self.sounds or self.results)

    @property
    def empty(self) -> bool:
        """Whether nothing was asked, shown or told."""
        return self.picture is None and not self.asks

    def add(self, message: UserMessage, place: str) -> None:
        """Take a message; several in a row are one turn. Raises: ApiError."""
        if isinstance(message.content, str):
            self._say(message.content)
            return
        for index, part in enumerate(message.content):
            if isinstance(part, TextPart):
                self._say(part.text)
            elif isinstance(part, ImagePart):
                url, where = part.image_url, f"{place}.content[{index}].image_url"
                if self.picture is not None and not self.unanswered:
                    raise ApiError(400, f"{where}: a turn holds one picture; show it in a turn of its own", param=where)
                shown = Medium(url.url, f"{where}.url") if isinstance(url, ImageUrl) else Medium(url, where)
                self.picture, self.unanswered = shown, False
            else:
                sound, where = part.input_audio, f"{place}.content[{index}].input_audio"
                played = Medium(sound.data, f"{where}.data") if isinstance(sound, InputAudio) else Medium(sound, where)
                self.sounds.append(played)

    def _say(self, text: str) -> None:
        if text.strip():
            self.words.append(text)


@dataclass(frozen=True)
class Asked:
    """A conversation.

    Attributes:
        instructions: of all system messages.
        turns: the oldest first.
        question: the last one.
    """

    instructions: str
    turns: Sequence[tuple[Question, SpokenReply]]
    question: Question


def joined_text(content: str | Sequence[object]) -> str:
    """The words of a message's content."""
    return content if isinstance(content, str) else "".join(p.text for p in content if isinstance(p, TextPart))


def read_messages(service: Service, messages: Sequence[Message]) -> Asked:
    """The turns of a conversation.

    An answer without anything in it is passed over: what was asked before it belongs to what is asked next. Several
    answers in a row are one, and an answer to nothing may stand first. No sound or picture is decoded yet.

    Raises:
        ApiError: a message is out of place or cannot be used; it is named.
    """
    instructions: list[str] = []
    turns: list[tuple[Question, SpokenReply]] = []
    names: dict[str, str] = {}  # of what was called, by the call's id
    question, place = Question(), ""
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        if isinstance(message, SystemMessage):
            instructions.append(joined_text(message.content))
        elif isinstance(message, UserMessage):
            question.add(message, place)
        elif isinstance(message, ToolMessage):
            question.results.append(_result(service, message, names, place))
        elif (reply := _recalled(service, message, question, place)) is None:
            question.unanswered = True
        else:
            names |= {call.id: call.function.name for call in message.tool_calls or ()}
            if question.empty and turns:
                turns[-1] = (turns[-1][0], _joined(turns[-1][1], reply))
            else:
                turns.append((question, reply))
            question = Question()
    if isinstance(messages[-1], AssistantMessage) and question.empty:
        raise ApiError(400, f"{place}: an answer; end with a question, or with what a tool gave back", param=place)
    with about(place):
        if question.text is not None:
            service.assistant.check_text(question.text)
    return Asked("\n".join(instructions), turns, question)


def _result(service: Service, message: ToolMessage, names: dict[str, str], place: str) -> ToolResult:
    name = names.get(message.tool_call_id)
    if name is None:
        where = f"{place}.tool_call_id"
        raise ApiError(400, f"{where}: no answer before it has a call of this id", param=where)
    text = joined_text(message.content)
    with about(f"{place}.content"):
        return ToolResult(name, text and service.assistant.check_text(text))


def _recalled(service: Service, message: AssistantMessage, question: Question, place: str) -> SpokenReply | None:
    """An earlier answer; None if there is nothing in it."""
    if message.audio is not None:
        return service.replies.find(message.audio.id, f"{place}.audio.id")
    text = joined_text(message.content or "").strip()
    if message.tool_calls:
        with about(f"{place}.tool_calls"):
            calls = tuple(Call.from_json(call.function.name, call.function.arguments) for call in message.tool_calls)
        return SpokenReply(question.text or "", "", "", "", (), calls)
    if not text:
        return None
    styles = service.assistant.styles
    check_style(styles, message.emotion, message.pitch, f"{place}.")
    style = styles.parse(None, message.emotion, message.pitch)
    with about(f"{place}.content"):
        text = service.assistant.check_text(text)
    return SpokenReply(question.text or "", text, style.emotion, style.pitch, ())


def _joined(first: SpokenReply, second: SpokenReply) -> SpokenReply:
    """Two answers in a row as one; calls leave no room for words."""
    if first.calls or second.calls:
        return replace(first, text="", units=(), calls=first.calls + second.calls)
    units = first.units + second.units if first.units and second.units else ()
    return replace(first, text=f"{first.text} {second.text}", units=units)
