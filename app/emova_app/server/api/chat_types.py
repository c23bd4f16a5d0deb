"""What ``/v1/chat/completions`` takes and gives: OpenAI's fields, and emotion and pitch beside them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from emova_app.server.api.styles import STYLE_WORD

# Which words there are, the loaded checkpoint says: ``styles.show_styles`` writes them into the document.
Emotion = Annotated[str, Field(max_length=200, json_schema_extra={STYLE_WORD: "emotions"})]
Pitch = Annotated[str, Field(max_length=200, json_schema_extra={STYLE_WORD: "pitches"})]
Text = Annotated[str, Field(max_length=100_000)]
Short = Annotated[str, Field(max_length=200)]


class _Strict(BaseModel):
    """Fields that we do not know are passed over, as OpenAI's clients send more every year; ours are checked."""

    model_config = ConfigDict(extra="ignore", strict=True)


# --- in ---------------------------------------------------------------------------------------------------------------
class TextPart(_Strict):
    """Written words."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Strict):
    """A data: URL, or an http(s) URL whose host is on the server's list."""

    url: str


class ImagePart(_Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(_Strict):
    """An audio file as base64; its type is read from its bytes."""

    data: str
    format: Short = "wav"


class AudioPart(_Strict):
    """Spoken words."""

    type: Literal["input_audio"]
    input_audio: InputAudio


Part = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


class AudioReference(_Strict):
    """An earlier spoken reply."""

    id: Short


class SystemMessage(_Strict):
    """Instructions."""

    role: Literal["system", "developer"]
    content: Text | Annotated[list[TextPart], Field(max_length=64)]


class UserMessage(_Strict):
    """A question: words, a picture, sound."""

    role: Literal["user"]
    content: Text | Annotated[list[Part], Field(max_length=64)]


class AssistantMessage(_Strict):
    """What was answered earlier: its text, or the id of its audio."""

    role: Literal["assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=64)] | None = None
    audio: AudioReference | None = None
    emotion: Emotion | None = None
    pitch: Pitch | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class VoiceId(_Strict):
    """A voice by its id."""

    id: Short


class AudioWish(_Strict):
    """How the answer should sound."""

    voice: Short | VoiceId | None = None
    format: Literal["wav", "mp3", "flac", "opus", "aac", "pcm16"] = "wav"


class TextFormat(_Strict):
    """Plain text is the only one."""

    type: Literal["text"]


class StreamOptions(_Strict):
    """What a stream tells beside the answer."""

    include_usage: bool | None = None


class ChatRequest(_Strict):
    """A conversation that ends with a question."""

    model: Short
    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)] | None = None
    audio: AudioWish | None = None
    emotion: Emotion | None = None
    pitch: Pitch | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    # Wishes that cannot be granted are refused rather than forgotten.
    n: Literal[1] | None = None
    stop: None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[object], Field(max_length=0)] | None = None
    functions: Annotated[list[object], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None


# --- out --------------------------------------------------------------------------------------------------------------
class SpokenAudio(BaseModel):
    """The answer's sound as base64; ``id`` refers to it in a later request until ``expires_at``."""

    id: str
    data: str
    expires_at: int
    transcript: str


class AnswerMessage(BaseModel):
    """The answer. ``input_transcript`` is what the question was understood to be."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    audio: SpokenAudio | None = None
    emotion: Emotion
    pitch: Pitch
    input_transcript: str


class AnswerChoice(BaseModel):
    """The only choice."""

    index: int = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class Usage(BaseModel):
    """Counts of tokens; speech has 25 a second."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(BaseModel):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[AnswerChoice]
    usage: Usage
