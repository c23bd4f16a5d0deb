"""What ``/v1/chat/completions`` takes and gives: OpenAI's fields, and emotion and pitch beside them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from emova_app.server.api.styles import STYLE_WORD
from emova_app.server.http.invalid import only

# Which words there are, the loaded checkpoint says: ``styles.show_styles`` writes them into the document.
Emotion = Annotated[str, Field(max_length=200, json_schema_extra={STYLE_WORD: "emotions"})]
Pitch = Annotated[str, Field(max_length=200, json_schema_extra={STYLE_WORD: "pitches"})]
Text = Annotated[str, Field(max_length=100_000)]
Short = Annotated[str, Field(max_length=200)]
FunctionName = Annotated[str, Field(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$")]
MOST_MESSAGES = 4096


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
    """A picture; some clients send its URL without an object around it."""

    type: Literal["image_url"]
    image_url: ImageUrl | str


class InputAudio(_Strict):
    """An audio file as base64, also as a data: URL; its type is read from its bytes."""

    data: str
    format: Short = "wav"


class AudioPart(_Strict):
    """Spoken words; some clients send the base64 without an object around it."""

    type: Literal["input_audio"]
    input_audio: InputAudio | str


Part = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


class RefusalPart(_Strict):
    """An earlier answer that another model refused to give."""

    type: Literal["refusal"]
    refusal: Text


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


class CalledFunction(_Strict):
    """What a call calls: ``arguments`` is the text of a JSON object."""

    name: FunctionName
    arguments: Text


class ToolCall(_Strict):
    """A call of a tool."""

    id: Short
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(_Strict):
    """What was answered earlier: its text, the id of its audio, or its calls. One without any is passed over."""

    role: Literal["assistant"]
    content: Text | Annotated[list[TextPart | RefusalPart], Field(max_length=64)] | None = None
    audio: AudioReference | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=64)] | None = None
    emotion: Emotion | None = None
    pitch: Pitch | None = None


class ToolMessage(_Strict):
    """What a tool gave back for a call."""

    role: Literal["tool"]
    tool_call_id: Short
    content: Text | Annotated[list[TextPart], Field(max_length=64)]


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


class FunctionSpec(_Strict):
    """A function that the model may call; ``parameters`` is a JSON schema, kept in every call (``strict`` or not)."""

    name: FunctionName
    description: Text | None = None
    parameters: dict[str, object] | None = None


class FunctionTool(_Strict):
    """A tool."""

    type: Literal["function"]
    function: FunctionSpec


class NamedFunction(_Strict):
    """A function's name."""

    name: FunctionName


class NamedTool(_Strict):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


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
    """A conversation that ends with a question, or with what tools gave back."""

    model: Short
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    modalities: Annotated[list[Literal["text", "audio"]], Field(min_length=1, max_length=2)] | None = None
    audio: AudioWish | None = None
    emotion: Emotion | None = None
    pitch: Pitch | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=32)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    # Wishes that cannot be granted are refused rather than forgotten.
    n: Annotated[None, *only(None, 1)] = None
    stop: Annotated[None, *only(None, [], "")] = None
    logprobs: Annotated[None, *only(None, False)] = None
    functions: Annotated[None, *only(None, [])] = None
    response_format: TextFormat | None = None


# --- out --------------------------------------------------------------------------------------------------------------
class SpokenAudio(BaseModel):
    """The answer's sound as base64; ``id`` refers to it in a later request until ``expires_at``."""

    id: str
    data: str
    expires_at: int
    transcript: str


class AnswerMessage(BaseModel):
    """The answer, or calls in its place. ``input_transcript`` is what the question was understood to be."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    audio: SpokenAudio | None = None
    tool_calls: list[ToolCall] | None = None
    emotion: Emotion | None
    pitch: Pitch | None
    input_transcript: str


FinishReason = Literal["stop", "length", "tool_calls"]


class AnswerChoice(BaseModel):
    """The only choice."""

    index: int = 0
    message: AnswerMessage
    finish_reason: FinishReason
    logprobs: None = None


class Usage(BaseModel):
    """Counts of tokens; a second of speech has as many as the checkpoint's codec makes (emova-nano: 25)."""

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
