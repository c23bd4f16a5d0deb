"""How the parts of a dialogue know each other: an assistant, the scheduler, and what the scheduler moves on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import RLock
from typing import Any, Protocol

from emova.core.tokens import Frame, TokenIds
from emova.decoding.protocol import DecodingBackend, Prompt
from emova.decoding.sampling import Sampling
from emova.engine.engine import Engine
from emova.engine.request import GenerationRequest
from emova.reply.doubt import Doubt
from emova.reply.format import ReplyFormat, ReplyLimits
from emova.reply.grammar import Grammar, TokenTable
from emova.reply.guard import ReplyGuard
from emova.session.config import SchedulerConfig
from emova.speech.audio import AudioLimits
from emova.speech.style import StyleSet
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.speech.tokenizer.streaming import Audio
from emova.speech.voice import Voice
from emova.vision.image import ImageLimits


class DialogueConfig(Protocol):
    """The limits that a dialogue keeps."""

    @property
    def audio_limits(self) -> AudioLimits: ...
    @property
    def image_limits(self) -> ImageLimits: ...
    @property
    def reply_limits(self) -> ReplyLimits: ...
    @property
    def reply_guard(self) -> ReplyGuard: ...
    @property
    def sampling(self) -> Sampling: ...


class DialogueModel(Protocol):
    """What a conversation or a session needs of an assistant; ``emova.assistant.Assistant`` is one."""

    @property
    def config(self) -> DialogueConfig: ...
    @property
    def table(self) -> TokenTable: ...
    @property
    def token_ids(self) -> TokenIds: ...
    @property
    def frame(self) -> Frame: ...
    @property
    def reply_format(self) -> ReplyFormat: ...
    @property
    def decoder(self) -> DecodingBackend[Any]: ...
    @property
    def reading_decoder(self) -> DecodingBackend[Any]:
        """Of the language model that reads aloud, which may be another one."""
        ...

    @property
    def trained_context(self) -> int:
        """Positions before an answer up to which dialogues were trained; a dialogue stays within them."""
        ...

    @property
    def speech_window(self) -> int:
        """Units of speech that the model reads at once; the beginning of longer speech leaves as words."""
        ...

    @property
    def doubt(self) -> Doubt | None:
        """When it admits that it does not know."""
        ...

    @property
    def speech_tokenizer(self) -> SpeechTokenizer: ...
    @property
    def voice(self) -> Voice: ...
    @property
    def styles(self) -> StyleSet: ...

    def check_text(self, text: str) -> str:
        """A user's text, cleaned. Raises: InputError: it is empty or too long."""
        ...

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> Prompt:
        """Messages as training renders them, up to where the assistant answers."""
        ...

    def transcribing(self, units: list[int]) -> tuple[Prompt, Grammar]:
        """What to ask, and what may come, to write down speech units. Raises: InputError: too many units."""
        ...

    def read_text(self, tokens: Iterable[int]) -> str:
        """The text of a plain answer's tokens."""
        ...

    def listen(self, audio: Audio, *, reject_silence: bool = True) -> list[int]:
        """The speech units of a recording. Raises: InputError."""
        ...


class Participant(Protocol):
    """What the scheduler moves on: a session, or a single task.

    Attributes:
        touched: when anybody last used it, in s of the scheduler's clock.
    """

    touched: float

    @property
    def engine(self) -> Engine:
        """What moves it on."""
        ...

    @property
    def request(self) -> GenerationRequest | None:
        """What it is writing."""
        ...

    @property
    def wants_tokens(self) -> bool:
        """Whether the next round should move it on."""
        ...

    def advance(self) -> None:
        """Take what a round wrote."""
        ...

    def fail(self, error: Exception) -> None:
        """End what it is writing with an error."""
        ...

    def close(self) -> None:
        """Stop, and free the memory."""
        ...


class Rounds(Protocol):
    """What a session or a task needs of the scheduler.

    Attributes:
        lock: whoever changes a participant or makes a round holds it.
        clock: seconds.
    """

    @property
    def assistant(self) -> DialogueModel: ...
    @property
    def config(self) -> SchedulerConfig: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def reading_engine(self) -> Engine:
        """Of the language model that reads aloud, which may be another one."""
        ...

    @property
    def lock(self) -> RLock: ...
    @property
    def clock(self) -> Callable[[], float]: ...

    def pump(self) -> bool:
        """Make one round; whether there was anybody to move on."""
        ...

    def leave(self, participant: Participant) -> None:
        """Forget a participant that has ended."""
        ...
