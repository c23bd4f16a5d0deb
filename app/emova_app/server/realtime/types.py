"""What clients of ``/v1/realtime`` send. Unknown fields are passed over, known ones are checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from emova_app.server.api.chat_types import Emotion, Pitch, Short, Text, VoiceId

Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=1)]


class _Taken(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Open(BaseModel):
    """Fields that are unknown here are kept, so that the client can be told of them."""

    model_config = ConfigDict(extra="allow", strict=True)


class Pcm(_Taken):
    """16-bit samples, little-endian, one channel, 24 kHz."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] | None = None


class G711(_Taken):
    """The sound of telephones: one byte a sample, 8 kHz."""

    type: Literal["audio/pcmu", "audio/pcma"]
    rate: Literal[8000] | None = None


AudioFormat = Annotated[Pcm | G711, Field(discriminator="type")]


class Transcribing(_Taken):
    """Whether the client wants to read what it said; the model is this server's own.

    Attributes:
        drafts: also what it is saying, before all of its words are certain.
    """

    model: Short | None = None
    drafts: bool = False


class AudioIn(_Open):
    """What comes in; ``turn_detection`` is read leniently, by ``turn_detection.read_turn_detection``."""

    format: AudioFormat | None = None
    turn_detection: dict[str, object] | None = None
    transcription: Transcribing | None = None


class AudioOut(_Open):
    """What goes out."""

    format: AudioFormat | None = None
    voice: Short | VoiceId | None = None


class Audio(_Open):
    """Both."""

    input: AudioIn | None = None
    output: AudioOut | None = None


Tools = list[dict[str, object]]
"""Read, and bounded, by ``emova.reply.tools.Toolbox``."""
Tokens = Annotated[int, Field(ge=1)] | Literal["inf"]


class SessionChanges(_Open):
    """Settings of the session; what is not sent stays as it is."""

    type: Literal["realtime"] | None = None
    model: Short | None = None
    instructions: Text | None = None
    output_modalities: Modalities | None = None
    audio: Audio | None = None
    emotion: Emotion | None = None
    pitch: Pitch | None = None
    max_output_tokens: Tokens | None = None
    tools: Tools | None = None
    tool_choice: str | dict[str, object] | None = None
    parallel_tool_calls: bool | None = None


class Content(_Taken):
    """A part of an item."""

    type: Literal["input_text", "input_audio", "input_image", "output_text", "text", "output_audio"]
    text: Text | None = None
    audio: str | None = None
    image_url: str | None = None
    transcript: Text | None = None


ItemId = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


class Item(_Taken):
    """A message of the conversation."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    id: ItemId | None = None
    content: Annotated[list[Content], Field(min_length=1, max_length=64)]


CallId = Annotated[str, Field(min_length=1, max_length=64)]


class CallItem(_Taken):
    """A call of a tool, as it was made earlier."""

    type: Literal["function_call"]
    id: ItemId | None = None
    call_id: CallId | None = None
    name: Short
    arguments: Text


class OutputItem(_Taken):
    """What a tool gave back for a call."""

    type: Literal["function_call_output"]
    id: ItemId | None = None
    call_id: CallId
    output: Text


AnyItem = Annotated[Item | CallItem | OutputItem, Field(discriminator="type")]


class ItemReference(_Taken):
    """An item that is in the conversation already."""

    type: Literal["item_reference"]
    id: Short


InputItem = Annotated[Item | CallItem | OutputItem | ItemReference, Field(discriminator="type")]


class ResponseOptions(_Open):
    """Settings of one answer."""

    instructions: Text | None = None
    output_modalities: Modalities | None = None
    conversation: Literal["auto", "none"] | None = None
    audio: Audio | None = None
    emotion: Emotion | None = None
    pitch: Pitch | None = None
    max_output_tokens: Tokens | None = None
    metadata: Annotated[dict[Short, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    input: Annotated[list[InputItem], Field(max_length=256)] | None = None
    tools: Tools | None = None
    tool_choice: str | dict[str, object] | None = None
    parallel_tool_calls: bool | None = None


class _Event(_Taken):
    event_id: Short | None = None


class SessionUpdate(_Event):
    """Change settings."""

    type: Literal["session.update"]
    session: SessionChanges


class Append(_Event):
    """More sound."""

    type: Literal["input_audio_buffer.append"]
    audio: str


class Commit(_Event):
    """The sound so far is a question, or a part of one."""

    type: Literal["input_audio_buffer.commit"]


class Clear(_Event):
    """Forget the sound that was not committed."""

    type: Literal["input_audio_buffer.clear"]


class ItemCreate(_Event):
    """An item into the conversation, after another item, at its beginning (``root``), or at its end."""

    type: Literal["conversation.item.create"]
    item: AnyItem
    previous_item_id: Short | None = None


class ItemTruncate(_Event):
    """Only so much of an answer was heard."""

    type: Literal["conversation.item.truncate"]
    item_id: Short
    content_index: Annotated[int, Field(ge=0, le=0)] = 0
    audio_end_ms: Annotated[int, Field(ge=0, le=1 << 31)]


class ItemDelete(_Event):
    """Forget an item."""

    type: Literal["conversation.item.delete"]
    item_id: Short


class ItemRetrieve(_Event):
    """Show an item."""

    type: Literal["conversation.item.retrieve"]
    item_id: Short


class ResponseCreate(_Event):
    """Answer now."""

    type: Literal["response.create"]
    response: ResponseOptions | None = None


class ResponseCancel(_Event):
    """Break off the answer."""

    type: Literal["response.cancel"]
    response_id: Short | None = None


ClientEvent = (
    SessionUpdate
    | Append
    | Commit
    | Clear
    | ItemCreate
    | ItemDelete
    | ItemTruncate
    | ItemRetrieve
    | ResponseCreate
    | ResponseCancel
)
CLIENT_EVENT: TypeAdapter[ClientEvent] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])
