"""From a record of a converted set to one example of a pack; ``emova_data.records.records`` says what a record is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np
from PIL import Image

from emova.core.errors import InputError
from emova.model import EmovaProcessor
from emova.model.processing_emova import Message, Rendered
from emova.reply.format import SPEAK_PROMPT, TRANSCRIBE_PROMPT
from emova.reply.grammar import TokenTable
from emova.reply.parser import SpokenReply
from emova.speech.spelling import LETTERS, find_spelling
from emova.speech.style import DEFAULT_STYLES
from emova.vision.image import load_image
from emova_data.records.records import Message as Recorded
from emova_data.records.records import Part
from emova_train.data.examples import TEXT, TRANSCRIPT, UNITS, Example, example
from emova_train.data.interleaved import InterleavedConfig, Subtask, alternating_format, only
from emova_train.data.phrasings import draw_phrase, speak_phrasings, transcribe_phrasings
from emova_train.data.replies import reply_format_of, reply_kinds
from emova_train.data.sample_reader import BadSample
from emova_train.data.shards import Raw

TEMPLATES = ("qa", "plain")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class RecordConfig:
    """How records become conversations.

    Attributes:
        speak_share: of the samples of speech and its transcript, the share that is turned round to text to speech.
        both_directions: a pair of speech and transcript is written down in one pass over its set and read aloud in the
            next, half of the pairs the other way round: two passes an epoch teach both of each. ``speak_share`` then
            counts for nothing.
        template: ``qa`` keeps questions about pictures; ``plain`` lets a picture be followed by its answer at once
            (compared in the paper's Table 7).
        one_phrasing: speech and text are asked for in the words that the assistant itself uses, and in no others.
        spelling: how a text that is to be read aloud is spelled (``emova.speech.spelling``).
        replies: how spoken replies are written: ``interleaved`` or ``glm_4_voice``, text and units in turns; the
            model's own format if empty.
        interleaved: their ratio, and which of the two sub-tasks a reply teaches in a pass over its set.
    """

    speak_share: float = 0.4
    both_directions: bool = False
    template: str = "qa"
    one_phrasing: bool = False
    spelling: str = LETTERS
    replies: str = ""
    interleaved: InterleavedConfig = field(default_factory=InterleavedConfig)

    def __post_init__(self) -> None:
        if self.replies:
            alternating_format(self.replies, self.interleaved, DEFAULT_STYLES)
        find_spelling(self.spelling)
        if self.template not in TEMPLATES:
            raise InputError(f"template={self.template}: unknown; give one of {', '.join(TEMPLATES)}")
        if not 0 <= self.speak_share <= 1:
            raise InputError(f"speak_share={self.speak_share:g}: give a share between 0 and 1")


class RecordRenderer:
    """Renders records with a processor; random choices follow from the record's id, the seed and the epoch."""

    def __init__(self, processor: EmovaProcessor, config: RecordConfig, *, seed: int, max_tokens: int) -> None:
        self.processor = processor
        self.config = config
        self.seed = seed
        self.max_tokens = max_tokens
        self.spell = find_spelling(config.spelling)
        self.table = TokenTable.from_tokenizer(processor.tokenizer)
        self.reply_format = reply_format_of(processor)
        if config.replies:
            self.reply_format = alternating_format(config.replies, config.interleaved, self.reply_format.styles)

    def render(self, raw: Raw, epoch: int, task: str = "") -> Example:
        """The example of a record.

        Raises:
            BadSample: it is damaged or does not fit; the reason is the message.
        """
        try:
            messages, replies = self.messages(raw, epoch)
            rendered = self.processor.render_training(messages)
        except InputError as error:
            raise BadSample(str(error).partition(";")[0]) from None
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            # Records of others break the form in more ways than can be named.
            raise BadSample("not of the expected form") from None
        kinds = self._kinds(rendered, messages, replies)
        if raw.fields.get("task") == "speech" and UNITS not in kinds:
            kinds = [TRANSCRIPT] * len(kinds)
        made = example(rendered, kinds, self.processor.token_ids, task)
        if len(made) > self.max_tokens:
            raise BadSample(f"longer than max_tokens={self.max_tokens}")
        if not any(rendered.loss_mask):
            raise BadSample("nothing to learn from")
        return made

    def sizes(self, made: Example) -> dict[str, int]:
        """Tokens of each modality; a separator or frame counts as text."""
        ids = self.processor.token_ids
        image = int((made.ids == ids.image).sum())
        speech = int(((made.ids >= ids.first_unit) & (made.ids < ids.first_unit + ids.codebook_size)).sum())
        return {"text": len(made) - image - speech, "image": image, "speech": speech}

    # Messages

    def messages(self, raw: Raw, epoch: int) -> tuple[list[Message], dict[int, tuple[int, ...]]]:
        """The conversation, and by message number what each token of a spoken reply teaches. Raises: BadSample."""
        rng = np.random.default_rng([self.seed, epoch, crc32(raw.id.encode())])
        recorded = raw.fields["messages"]
        if raw.fields.get("task") == "speech":
            return self._speech(raw, recorded, rng, epoch), {}
        if [message["role"] for message in recorded] == ["document"]:
            return [{"role": "assistant", "content": self._parts(raw, recorded[0])}], {}
        check_turns(recorded)
        messages: list[Message] = []
        replies: dict[int, tuple[int, ...]] = {}
        spoken = any(part["type"] == "reply" for message in recorded for part in message["content"])
        subtask = self._subtask(raw, epoch)
        if spoken and recorded[0]["role"] != "system":
            messages.append({"role": "system", "content": self.reply_format.system_prompt})
        for message in recorded:
            content = message["content"]
            if content[0]["type"] == "reply":
                ids, kinds = self._reply(content[0])
                replies[len(messages)] = kinds if subtask is None else only(subtask, kinds)
                messages.append({"role": "assistant", "content": [{"type": "tokens", "ids": ids}]})
            else:
                messages.append({"role": message["role"], "content": self._parts(raw, message)})
        if self.config.template == "plain" and not spoken:
            messages = [plain(message) for message in messages]
        return messages, replies

    def _subtask(self, raw: Raw, epoch: int) -> Subtask | None:
        """Which of the two losses a sample has in this pass; samples begin to count at different places."""
        if not self.config.replies:
            return None
        return self.config.interleaved.subtask_of_pass(crc32(raw.id.encode()) % 10007 + self.seed + epoch)

    def _speech(self, raw: Raw, recorded: Sequence[Recorded], rng: np.random.Generator, epoch: int) -> list[Message]:
        heard: Message = {"type": "audio", "units": self._units(recorded[0]["content"][0])}
        words = raw.fields["text"]
        speak = rng.random() < self.config.speak_share
        if self.config.both_directions:
            speak = (crc32(raw.id.encode()) + self.seed + epoch) % 2 == 1
        if speak:
            asked = SPEAK_PROMPT if self.config.one_phrasing else draw_phrase(speak_phrasings(words), rng)
            asked += self.spell(words)
            return [{"role": "user", "content": asked}, {"role": "assistant", "content": [heard]}]
        asked = TRANSCRIBE_PROMPT if self.config.one_phrasing else draw_phrase(transcribe_phrasings(words), rng)
        question = {"role": "user", "content": [heard, {"type": "text", "text": asked}]}
        return [question, {"role": "assistant", "content": words}]

    def _parts(self, raw: Raw, message: Recorded) -> list[Message]:
        parts: list[Message] = []
        for part in message["content"]:
            if part["type"] == "text":
                parts.append({"type": "text", "text": part["text"]})
            elif part["type"] == "image":
                parts.append({"type": "image", "image": self._image(raw, part["image"])})
            else:
                parts.append({"type": "audio", "units": self._units(part)})
        return parts

    @staticmethod
    def _image(raw: Raw, member: str) -> Image.Image:
        if member not in raw.media:
            raise BadSample("an image placeholder without an image")
        try:
            return load_image(raw.media[member])
        except InputError:
            raise BadSample("an image that cannot be decoded") from None

    def _units(self, part: Part) -> Sequence[int]:
        units = part.get("units")
        if units is None:
            raise BadSample("speech without units (see `emova data tokenise`)")
        if not units or not 0 <= min(units) <= max(units) < self.processor.token_ids.codebook_size:
            raise BadSample("units outside the codebook")
        return units

    def _reply(self, part: Part) -> tuple[list[int], tuple[int, ...]]:
        styles = self.reply_format.styles
        if part["emotion"] not in styles.emotions or part["pitch"] not in styles.pitches:
            raise BadSample("an unknown style")
        units = tuple(self._units(part))
        reply = SpokenReply(part["transcript"], part["text"], part["emotion"], part["pitch"], units)
        return self.reply_format.encode(reply, self.table)[:-1], reply_kinds(self.reply_format, reply, self.table)

    def _kinds(
        self, rendered: Rendered, messages: Sequence[Message], replies: Mapping[int, tuple[int, ...]]
    ) -> list[int]:
        """What each learnt position teaches: units and their marks UNITS, a reply's parts their own, the rest TEXT."""
        ids, token_ids = np.asarray(rendered.input_ids), self.processor.token_ids
        learnt = np.asarray(rendered.loss_mask, dtype=bool)
        said = (ids >= token_ids.first_unit) & (ids < token_ids.first_unit + token_ids.codebook_size)
        said |= (ids == token_ids.speech_start) | (ids == token_ids.speech_end)
        kinds = np.where(said, UNITS, TEXT)
        first_learnt = np.flatnonzero(np.diff(np.concatenate([[0], learnt.astype(np.int8)])) == 1)
        assistants = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        assert len(first_learnt) == len(assistants), "an assistant message was lost"
        for first, number in zip(first_learnt.tolist(), assistants, strict=True):
            if number in replies:
                kinds[first : first + len(replies[number])] = replies[number]
        return kinds[learnt].tolist()


def check_turns(messages: Sequence[Recorded]) -> None:
    """An optional system message, then user and assistant in turn. Raises: BadSample."""
    roles = [message["role"] for message in messages]
    if unknown := [role for role in roles if role not in _ROLES]:
        raise BadSample(f"an unknown role, {str(unknown[0])[:20]}")
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise BadSample("a missing turn")
    if any(not message["content"] for message in messages):
        raise BadSample("an empty message")


def plain(message: Message) -> Message:
    """A user's message without its words where it has a picture."""
    pictures = [part for part in message["content"] if part["type"] == "image"] if message["role"] == "user" else []
    return {**message, "content": pictures} if pictures else message
