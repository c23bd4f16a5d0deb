"""Dialogues fit to be spoken, of several turns, out of dialogues in text (GLM-4-Voice §4.2.1).

What is of poor quality goes, and what is about code or mathematics or holds formulas, tables or addresses; long answers
are shortened by an endpoint where one is named; what is left reads as it is said. With ``model`` or ``tokenizer`` every
turn gets its units, and the answers become spoken replies. Each dialogue that is left out is counted with its reason.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from emova.core.config import load_config
from emova.core.errors import InputError
from emova_data.records.documents import places_of
from emova_data.records.parallel import in_pool
from emova_data.records.records import BadRecord, Draft, Message, Record, message, text
from emova_data.records.selection import Selection
from emova_data.sources.convert import ConvertConfig, ConvertResult, convert
from emova_data.synthesis.endpoint import Endpoint
from emova_data.synthesis.pipeline import LabelConfig, SpeechConfig, Turns, conversations, load_labeller
from emova_data.synthesis.speech_text import language_of, spoken
from emova_data.synthesis.style_labels import Labeller
from emova_data.synthesis.text_to_units import ReadingConfig, TextToUnits, load_text_to_units, unit_name

CUT, SHORTENED = "cut before an exchange that is not fit to be spoken", "an answer was shortened"
"""What the notes of a conversion count."""
_ANY_LENGTH = 10**6
_TOPICS = re.compile(
    r"\b(?:python|javascript|typescript|html|css|sql|c\+\+|regex|json|xml|source code|(?:write|debug|fix|run) "
    r"(?:the |a |some |this |my )?(?:code|program|script|function)|compil\w+|algorithms?|equations?|polynomials?"
    r"|integrals?|derivatives?|theorems?|matri(?:x|ces)|logarithms?|trigonometr\w+|algebra\w*|calculus|solve for)\b"
    r"|代码|编程|程序|函数|方程|积分|导数|微分|定理|矩阵|对数|三角函数|求解|算法",
    re.I,
)
PROMPT = """\
Below a user talks with an assistant. Rewrite the assistant's answer so that it can be said aloud in a conversation: at
most {words} words, in the same language, in whole sentences without lists, headings, marks of formatting, code,
formulas or addresses. Keep what answers the question and leave out the rest. Give the new answer and nothing else.

User: {question}
Assistant: {answer}"""


@dataclass(frozen=True)
class ShorteningConfig:
    """Who shortens long answers: the ``address`` (ending in /v1) and ``model`` of an OpenAI-compatible server; nobody
    where there is no address."""

    address: str = ""
    model: str = ""
    key_variable: str = "OPENAI_API_KEY"


@dataclass(frozen=True)
class DialogueConfig:
    """One run.

    Attributes:
        input: folder of a converted set, or a .json, .jsonl or .parquet file of conversations.
        output, name, split: where the shards go and what they are called.
        quality: what a dialogue has to be as it comes; see ``Selection``.
        topics: leave out what is about code or mathematics.
        min_turns, max_turns: exchanges of a question and its answer; what comes after the last one is cut off.
        max_question_words, max_answer_words: of one turn, as it is said (characters in Chinese).
        keep_beginning: a dialogue ends before its first exchange that is not fit, if ``min_turns`` are left.
        shorten: who shortens answers that are longer.
        model, tokenizer, reading, speech: what gives the turns their units, as in ``synthesise interleaved``; without
            the first two the dialogues stay text.
        labels: how the styles of spoken answers are chosen.
        per_shard, limit, jobs: dialogues in a shard, dialogues to read at most (0: all), processes.
        seed: of every random choice.
    """

    input: str = ""
    output: str = "data/sets/dialogues"
    name: str = "dialogues"
    split: str = "train"
    quality: Selection = field(default_factory=lambda: Selection(max_repeated=0.5, max_strange=0.01))
    topics: bool = True
    min_turns: int = 1
    max_turns: int = 8
    max_question_words: int = 60
    max_answer_words: int = 60
    keep_beginning: bool = True
    shorten: ShorteningConfig = field(default_factory=ShorteningConfig)
    model: str = ""
    tokenizer: str = ""
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    speech: SpeechConfig = field(default_factory=SpeechConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    per_shard: int = 1000
    limit: int = 0
    jobs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.min_turns <= self.max_turns:
            raise InputError("min_turns is at least 1 and at most max_turns")
        if min(self.max_question_words, self.max_answer_words, self.per_shard, self.jobs) < 1 or self.limit < 0:
            raise InputError(
                "max_question_words, max_answer_words, per_shard and jobs are at least 1, limit is 0 or more"
            )


@dataclass(frozen=True)
class Parts:
    """What a run works with; None where the config names none."""

    labeller: Labeller
    shortener: Endpoint | None
    to_units: TextToUnits | None


def load_parts(config: DialogueConfig) -> Parts:
    """Raises: InputError: one of them cannot be had."""
    shorten, shortener, to_units = config.shorten, None, None
    if shorten.address:
        shortener = Endpoint(shorten.address, shorten.model, shorten.key_variable, section="shorten")
    if config.model or config.tokenizer:
        to_units = load_text_to_units(config.model, config.tokenizer, config.seed, config.reading, config.speech)
    return Parts(load_labeller(config.labels), shortener, to_units)


def dialogue(identity: str, sample: Turns, config: DialogueConfig, parts: Parts) -> Record:
    """The dialogue as it is said. Raises: BadRecord: why it is left out."""
    if (reason := config.quality.reason(Record(identity, sample["messages"]))) is not None:
        raise BadRecord(reason)
    turns = [turn for turn in sample["messages"] if turn["role"] != "system"]
    if len(turns) < 2 * config.min_turns or [turn["role"] for turn in turns[:2]] != ["user", "assistant"]:
        raise BadRecord("too few turns")
    exchanges: list[tuple[str, str]] = []
    notes: set[str] = set()
    for question, answer in zip(turns[::2], turns[1::2], strict=False):
        if len(exchanges) == config.max_turns:
            break
        try:
            exchanges.append(_exchange(_words(question), _words(answer), config, parts.shortener, notes))
        except BadRecord:
            if not config.keep_beginning or len(exchanges) < config.min_turns:
                raise
            notes.add(CUT)
            break
    language = language_of(" ".join(word for exchange in exchanges for word in exchange))
    extra = {"task": "dialogue", "language": language, "split": config.split}
    messages = _written(exchanges) if parts.to_units is None else _said(exchanges, parts.labeller, parts.to_units)
    return Record(identity, messages, (), extra, tuple(sorted(notes)))


def _words(turn: Message) -> str:
    if any(part["type"] != "text" for part in turn["content"]):
        raise BadRecord("more than text")
    return "\n".join(part["text"] for part in turn["content"])


def _exchange(
    question: str, answer: str, config: DialogueConfig, shortener: Endpoint | None, notes: set[str]
) -> tuple[str, str]:
    """Question and answer as they are said. Raises: BadRecord: why they cannot be."""
    if config.topics and (_TOPICS.search(question) or "```" in answer):
        raise BadRecord("about code or mathematics")
    asked, said = spoken(question, _ANY_LENGTH), spoken(answer, _ANY_LENGTH)
    if asked is None:
        raise BadRecord("a question with code, formulas, or what is not said in words")
    if len(places_of(asked)) > config.max_question_words:
        raise BadRecord("a long question")
    fits = said is not None and len(places_of(said)) <= config.max_answer_words
    if not fits and shortener is not None:
        said = _shortened(asked, answer, config.max_answer_words, shortener)
        notes.add(SHORTENED)
    elif said is None:
        raise BadRecord("an answer with code, formulas, or what is not said in words")
    elif not fits:
        raise BadRecord("a long answer")
    assert said is not None
    return asked, said


def _shortened(question: str, answer: str, most: int, shortener: Endpoint) -> str:
    def read(content: str) -> str | None:
        said = spoken(content, _ANY_LENGTH)
        return said if said is not None and len(places_of(said)) <= most else None

    found = shortener.ask(PROMPT.format(words=most, question=question, answer=answer), read)
    if found is None:
        raise BadRecord("an answer that could not be shortened")
    return found


def _written(exchanges: list[tuple[str, str]]) -> list[Message]:
    return [
        turn
        for question, answer in exchanges
        for turn in (message("user", text(question)), message("assistant", text(answer)))
    ]


def _said(exchanges: list[tuple[str, str]], labeller: Labeller, to_units: TextToUnits) -> list[Message]:
    said = to_units([words for exchange in exchanges for words in exchange])
    if not all(said):
        raise BadRecord("a turn that could not be spoken")
    messages: list[Message] = []
    for number, (question, answer) in enumerate(exchanges):
        labels = labeller.label(question, answer)
        messages.append(message("user", {"type": "units", "units": said[2 * number], "text": question}))
        messages.append(
            message(
                "assistant",
                {"type": "reply", "transcript": question, "text": answer, "emotion": labels.emotion,
                 "pitch": labels.pitch, "units": said[2 * number + 1]},
            )
        )  # fmt: skip
    return messages


_worker: tuple[DialogueConfig, Parts] | None = None


def _start(config: DialogueConfig) -> None:
    global _worker
    if config.jobs > 1:
        import torch

        torch.set_num_threads(1)
    _worker = config, load_parts(config)


def _job(identity: str, load: Callable[[], Turns]) -> Record:
    assert _worker is not None
    return dialogue(identity, load(), *_worker)


def _drafts(config: DialogueConfig) -> Iterator[Draft]:
    for identity, load in conversations(config.input):
        yield Draft(identity, functools.partial(_job, identity, load))


def _made_from(config: DialogueConfig) -> str:
    """What decides the dialogues: with other settings they are made again."""
    said = asdict(config) | {"reading": config.reading.made_from()}
    return json.dumps({key: value for key, value in said.items() if key not in ("output", "jobs")})


def synthesise(config: DialogueConfig, parts: Parts | None = None) -> ConvertResult:
    """Run or go on with ``config``; ``parts`` takes the configured ones' place, in this process. Raises: InputError."""
    global _worker
    build = None
    if config.jobs > 1 and parts is None:
        build = in_pool(config.jobs, _start, config)
    else:
        _worker = config, parts or load_parts(config)
    settings = ConvertConfig(config.per_shard, max_skip_rate=1.0, limit=config.limit, deduplicate=True)
    return convert(
        _drafts(config), Path(config.output), config.name, split=config.split, suffix=".jsonl", config=settings,
        build=build, units=unit_name(config.model, config.tokenizer), made_from=_made_from(config),
    )  # fmt: skip


def main(path: Path | None, overrides: list[str]) -> int:
    """``emova data synthesise dialogues``. Raises: InputError."""
    config = load_config(DialogueConfig, path, overrides)
    result = synthesise(config)
    print(f"{result.tried} dialogues read, {result.records} in {len(result.shards)} shards in {config.output}")
    for reason, count in sorted(result.skipped.items(), key=lambda item: -item[1]):
        print(f"  left out {count}: {reason}")
    for note, count in sorted(result.notes.items()):
        print(f"  {count} of them: {note}")
    return 0
