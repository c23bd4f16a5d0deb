"""What clients of ``/v1/realtime`` send. Unknown fields are passed over, known ones are checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from emova_app.server.api.chat_types import Emotion, Pitch, Short, Text, VoiceId

Modalities = Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=1)]


class _Taken(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Pcm(_Taken):
    """16-bit samples, little-endian, one channel, 24 kHz: the only format."""

    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24000] = 24000


class ServerVad(_Taken):
    """Turns by voice activity."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(gt=0.15, lt=1, allow_inf_nan=False)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=2000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=64, le=10_000)] = 500
    create_response: bool = True
    interrupt_response: bool = True


class Transcribing(_Taken):
    """Whether the client wants to read what it said; the model is this server's own."""

    model: Short | None = None


class AudioIn(_Taken):
    """What comes in."""

    format: Pcm | None = None
    turn_detection: ServerVad | None = None
    transcription: Transcribing | None = None


class AudioOut(_Taken):
    """What goes out."""

    format: Pcm | None = None
    voice: Short | VoiceId | None = None


class Audio(_Taken):
    """Both."""

    input: AudioIn | None = None
    output: AudioOut | None = None


class SessionChanges(_Taken):
    """Settings of the session; what is not sent stays as it is."""

    type: Literal["realtime"] = "realtime"
    instructions: Text | None = None
    output_modalities: Modalities | None = None
    audio: Audio | None = None
    emotion: Emotion | None = None
    pitch: Pitch | None = None
    tools: Annotated[list[object], Field(max_length=0)] | None = None


class ResponseOptions(_Taken):
    """Settings of one answer."""

    output_modalities: Modalities | None = None
    conversation: Literal["auto"] | None = None
    audio: Audio | None = None
    emotion: Emotion | None = None
    pitch: Pitch | None = None
    metadata: Annotated[dict[Short, Annotated[str, Field(max_length=512)]], Field(max_length=16)] | None = None
    input: None = None
    tools: Annotated[list[object], Field(max_length=0)] | None = None


class Content(_Taken):
    """A part of an item."""

    type: Literal["input_text", "input_audio", "input_image", "output_text", "text", "output_audio"]
    text: Text | None = None
    audio: str | None = None
    image_url: str | None = None
    transcript: Text | None = None


class Item(_Taken):
    """A message of the conversation."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system"]
    id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    content: Annotated[list[Content], Field(min_length=1, max_length=64)]


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
    """A message into the conversation, at its end."""

    type: Literal["conversation.item.create"]
    item: Item
    previous_item_id: Short | None = None


class ItemTruncate(_Event):
    """Only so much of an answer was heard."""

    type: Literal["conversation.item.truncate"]
    item_id: Short
    content_index: Annotated[int, Field(ge=0, le=0)] = 0
    audio_end_ms: Annotated[int, Field(ge=0, le=1 << 31)]


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
    SessionUpdate | Append | Commit | Clear | ItemCreate | ItemTruncate | ItemRetrieve | ResponseCreate | ResponseCancel
)
CLIENT_EVENT: TypeAdapter[ClientEvent] = TypeAdapter(Annotated[ClientEvent, Field(discriminator="type")])
