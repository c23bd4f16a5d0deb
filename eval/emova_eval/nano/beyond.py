"""Beyond the recipe: the same abilities on material that it did not make, by other writers, voices and programs.

``emova eval nano parts=[beyond]``. Each row names what made its items and the command that makes them here; where they
are not there, the row says so. What the recipe itself made stands in the first table.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypedDict, TypeVar, cast

from emova.core.errors import InputError
from emova.core.writing import write_bytes
from emova_eval.judges.words import JUDGE_RATE
from emova_eval.metrics.compare import confidence_interval
from emova_eval.models.assistant import AssistantModel
from emova_eval.nano.data import TextRow, load_dialogues, read_lines, read_shards
from emova_eval.nano.dialogue import shares
from emova_eval.report.goals import Row
from emova_eval.suite.run_folder import safe_name
from emova_eval.suite.runner import Figure
from emova_eval.suite.samples import Example, Output, Record, Score, Task, pooled
from emova_eval.suite.scoring import find_metric
from emova_eval.suite.tasks import AsrTask, MetricTask, Recogniser, TtsTask

ItemT = TypeVar("ItemT")
TURNS = 20
TALKS = 12
VOICES = ("female", "male")


class Run(Protocol):
    """What is used of a ``NanoRun``."""

    @property
    def data(self) -> Path: ...
    @property
    def out(self) -> Path: ...
    @property
    def whisper(self) -> Recogniser: ...

    def run(self, task: Task[AssistantModel]) -> tuple[Figure, list[Record]]:
        """Ask a task's questions."""
        ...


# --- tasks ------------------------------------------------------------------------------------------------------------
@dataclass
class JudgedAnswers:
    """Typed questions, some about a picture, whose answers a recipe's judge finds right or wrong."""

    name: str
    items: Sequence[Example]
    right: Callable[[Example, str], bool]
    judge: str
    unit: str = "%"
    higher_is_better: bool = True
    interval: ClassVar[bool] = True

    def examples(self) -> Iterable[Example]:
        """All questions."""
        return self.items

    def ask(self, model: AssistantModel, example: Example) -> Output:
        """A spoken reply."""
        return model.reply(images=example.images, text=example.text)

    def score(self, example: Example, output: Output) -> Score:
        """1 for a right answer."""
        return Score(float(self.right(example, output.text)))

    def worst(self, example: Example, failure: str) -> Score:
        """Wrong."""
        return Score(0.0, failure=failure)

    def aggregate(self, records: Sequence[Record]) -> float:
        """Per cent right."""
        return pooled(records)

    def cluster(self, record: Record) -> str:
        """Several questions are asked about one picture."""
        return record.id.rpartition("/")[0] or record.id

    def stratum(self, record: Record) -> str:
        """All are drawn together."""
        return ""

    def further(self, records: Sequence[Record]) -> dict[str, float]:
        """None."""
        return {}


class Turn(TypedDict, total=False):
    """What is asked in a turn, typed or spoken (``audio``), perhaps about ``image``; ``record`` is for its judge."""

    question: str
    audio: str
    image: str
    about: str
    record: TextRow


class LongTalk(JudgedAnswers):
    """Conversations of many turns; an example is one of them, its facts hold the ``Turn``s.

    Values: ``turn_N`` of each turn, and ``alone``, the same questions each in a conversation of its own.
    """

    def ask(self, model: AssistantModel, example: Example) -> Output:
        """The answers in the conversation and alone, as JSON."""
        conversation = model.assistant.conversation()
        answers = []
        for turn in example.facts["turns"]:
            audio, image = turn.get("audio"), turn.get("image")
            typed = None if audio else turn["question"]
            there = conversation.chat(audio=audio, image=image, text=typed).text
            answers.append([there, model.assistant.chat(audio=audio, image=image, text=typed).text])
        return Output(text=json.dumps(answers, ensure_ascii=False))

    def score(self, example: Example, output: Output) -> Score:
        """How many of the last quarter's answers are right."""
        values = {}
        alone = 0.0
        for number, (row, answers) in enumerate(zip(example.facts["turns"], json.loads(output.text), strict=True), 1):
            right, single = (float(self.right(dataclasses.replace(example, facts=row), text)) for text in answers)
            values[f"turn_{number}"] = (right, 1.0)
            alone += single
        count = len(values)
        last = range(count - count // 4 + 1, count + 1)
        total = sum(values[f"turn_{number}"][0] for number in last)
        return Score(total, float(len(last)), {**values, "alone": (alone, float(count))})

    def worst(self, example: Example, failure: str) -> Score:
        """Nothing right."""
        return Score(0.0, float(len(example.facts["turns"]) // 4), failure=failure)


class UnitsTask(MetricTask):
    """Writing down speech that is kept as units; the facts hold them."""

    def __init__(self, name: str, items: Sequence[Example]) -> None:
        super().__init__(name, items, find_metric("wer"), "none; the model's own words")

    def ask(self, model: AssistantModel, example: Example) -> Output:  # type: ignore[override]  # units go past the audio
        """What the model hears."""
        return Output(text=model.assistant.transcribe_units(example.facts["units"]))


# --- rows -------------------------------------------------------------------------------------------------------------
def missing(name: str, goal: float | None, higher: bool, command: str) -> Row:
    """The row of what has no items here."""
    return Row(name, None, goal, higher, "%", note=f"no items; `{command}` makes them")


def row_of(figure: Figure, name: str, goal: float | None, note: str = "", parts: dict[str, float] | None = None) -> Row:
    """A figure as a line of the table: failures are counted in it, and named."""
    failed = f"{figure.failures} failed" if figure.failures else ""
    note = "; ".join(part for part in (note, figure.judge, failed, figure.missing) if part)
    return Row(
        name, figure.value, goal, figure.higher_is_better, figure.unit, figure.count, note, parts or {},
        figure.low, figure.high,
    )  # fmt: skip


def kept(run: Run, name: str, content: bytes) -> str:
    """What a shard holds, as a file of the run."""
    folder = run.out / "media"
    folder.mkdir(exist_ok=True)
    path = folder / safe_name(name)
    if not path.is_file():
        write_bytes(path, content)
    return str(path)


def groups(records: Sequence[Record]) -> dict[str, float]:
    """Per cent in each group."""
    return shares(records, lambda record: record.group)


def said(parts: dict[str, float]) -> str:
    """The groups in words."""
    return ", ".join(f"{name} {value:.0f} %" for name, value in parts.items())


def aloud_rows(run: Run, most: int, seed: int) -> list[Row]:
    """Everyday sentences of held-out writers read aloud."""
    path = run.data / "text" / "aloud_test.jsonl"
    if not path.is_file():
        command = "python -m emova_data.nano.aloud.texts"
        return [missing(f"everyday sentence read aloud, word error, {voice}", 12, False, command) for voice in VOICES]
    lines = draw(read_lines(path), most, seed)
    items = [Example(line["id"], line["text"], group=line["source"]) for line in lines]
    rows = []
    for voice in VOICES:
        figure, found = run.run(TtsTask(f"beyond-aloud-{voice}", items, run.whisper, voice=voice))
        note = f"held-out writers: {said(groups(found))}"
        rows.append(row_of(figure, f"everyday sentence read aloud, word error, {voice}", 12, note))
    return rows


def heard_rows(run: Run, most: int, seed: int) -> list[Row]:
    """Everyday sentences written down: of voices of families that nothing was trained on."""
    from emova_data.records.packed_units import unpack_units

    name = "everyday sentence by unheard voices, word error"
    paths = sorted((run.data / "heard_test").glob("*.jsonl"))
    if not paths:
        return [missing(name, 20, False, "python -m emova_train.data.heard --test")]
    lines = draw([line for path in paths for line in read_lines(path)], most, seed)
    items = [
        Example(line["id"], line["text"], answers=(line["text"],), group=line["voice"],
                facts={"units": unpack_units(line["units"]).tolist()})
        for line in lines
    ]  # fmt: skip
    figure, found = run.run(UnitsTask("beyond-heard", items))
    return [row_of(figure, name, 20, f"held-out writers and voices, clean: {said(groups(found))}")]


def people_rows(run: Run, most: int, seed: int) -> list[Row]:
    """People whose voices no training hears, written down."""
    name, pattern = "people, word error", "people_of-others-*.tar"
    if not any((run.data / "speech").glob(pattern)):
        return [missing(name, 30, False, "python -m emova_data.nano.speech.people")]
    items = [
        Example(sample.key, sample.facts["text"], audio=kept(run, f"{sample.key}.flac", sample.media["flac"]),
                answers=(sample.facts["text"],), group=sample.facts["voice"])
        for sample in read_shards(run.data / "speech", pattern)
    ]  # fmt: skip
    figure, found = run.run(AsrTask("beyond-people", draw(items, most, seed)))
    return [row_of(figure, name, 30, f"a reader, a player of cards, short captions: {said(groups(found))}")]


def picture_rows(run: Run, most: int, seed: int) -> list[Row]:
    """Questions in the recipe's words about pictures by programs that drew nothing for the training."""
    from emova_data.nano.pictures import correct

    names = ("picture by other programs: questions right", "picture by other programs: worst kind")
    folder, pattern = run.data / "pictures", "*_by-test-*.tar"
    if not any(folder.glob(pattern)):
        command = "python -m emova_data.nano.pictures.programs.make --split test --count 400"
        return [missing(name, goal, True, command) for name, goal in zip(names, (85, 75), strict=True)]
    items = []
    for sample in read_shards(folder, pattern):
        path = kept(run, f"{sample.key}.png", sample.media["png"])
        for index, question in enumerate(sample.facts["questions"]):
            items.append(Example(f"{sample.key}/{index}", question["question"], images=(path,),
                                 group=sample.facts["kind"], facts=dict(question)))  # fmt: skip
    task = JudgedAnswers("beyond-pictures", even(items, most, seed), lambda item, text: correct(item.facts, text),
                         "the recipe's judge")  # fmt: skip
    figure, found = run.run(task)
    parts = groups(found)
    worst = min(parts, key=lambda kind: parts[kind])
    own = [record for record in found if record.group == worst]
    low, high = confidence_interval(own, pooled, task.cluster)
    return [
        row_of(figure, names[0], 85, f"Vega-Lite, Graphviz, librsvg; typed: {said(parts)}", parts),
        Row(names[1], parts[worst], 75, True, "%", len(own), worst, {}, low, high),
    ]


def thing_rows(run: Run, most: int, seed: int) -> list[Row]:
    """Things drawn and photographed by people whose pictures no training sees: named among all names."""
    from emova_data.nano.pictures.programs.things import named
    from emova_data.nano.text.outside import declines

    names = ("thing by other artists, photographers: named", "not named: says that it is not sure")
    pattern = "things_of-others-*.tar"
    if not any((run.data / "pictures").glob(pattern)):
        command = "python -m emova_data.nano.pictures.programs.things"
        return [missing(names[0], 70, True, command), missing(names[1], None, True, command)]
    items = [
        Example(sample.key, sample.facts["question"], images=(kept(run, f"{sample.key}.png", sample.media["png"]),),
                group=sample.facts["source"], facts=dict(sample.facts))
        for sample in read_shards(run.data / "pictures", pattern)
    ]  # fmt: skip
    task = JudgedAnswers("beyond-things", even(items, most, seed), lambda item, text: named(item.facts["names"], text),
                         "WordNet's names of the same sense")  # fmt: skip
    figure, found = run.run(task)
    wrong = [record for record in found if not record.value]
    unsure = 100 * sum(declines(record.output) for record in wrong) / max(1, len(wrong))
    return [
        row_of(figure, names[0], 70, f"typed; {said(groups(found))}"),
        Row(names[1], unsure, None, True, "%", len(wrong), "of those not named"),
    ]


def world_rows(run: Run, most: int, seed: int) -> list[Row]:
    """Where the model's world ends: it says so, and only there."""
    from emova_data.nano.text.outside import declines, test_questions
    from emova_data.nano.text.talk import appropriate

    outside = [Example(f"outside-{number}", text) for number, text in enumerate(test_questions())]
    task = JudgedAnswers("beyond-outside", draw(outside, most, seed), lambda item, text: declines(text),
                         "says that it does not know")  # fmt: skip
    figure, _ = run.run(task)
    rows = [row_of(figure, "question outside its world: says so", 80, "written by hand")]
    inside = [
        Example(line["id"], line["question"], facts=dict(line))
        for line in read_lines(run.data / "text" / "talk.jsonl")
        if line["split"] == "test" and line["intent"] != "outside"
    ]
    task = JudgedAnswers("beyond-inside", draw(inside, most, seed),
                         lambda item, text: appropriate(item.facts["intent"], item.facts.get("slots", {}), text),
                         "the recipe's judge")  # fmt: skip
    figure, _ = run.run(task)
    return [
        *rows,
        row_of(figure, "question inside its world: answered", 90, "typed; the recipe's own held-out questions"),
    ]


def talk_turns(run: Run, seed: int) -> list[list[Turn]]:
    """Conversations of typed small talk."""
    lines = [line for line in read_lines(run.data / "text" / "talk.jsonl") if line["split"] == "test"]
    return [
        [
            {"question": line["question"], "record": line}
            for line in random.Random(f"{seed} {number}").sample(lines, TURNS)
        ]
        for number in range(TALKS)
    ]


def mixed_turns(run: Run, seed: int) -> list[list[Turn]]:
    """Conversations in which every second turn is spoken, and every third or fourth shows a picture."""
    from emova_data.nano.speech.shard_maker import encode_flac

    turns: dict[bool, list[Turn]] = {False: [], True: []}
    for item in load_dialogues(run.data, TALKS * TURNS, seed):
        turn: Turn = {"question": item.question, "record": item.record, "about": "talk"}
        if item.image is not None:
            buffer = io.BytesIO()
            item.image.save(buffer, "PNG")
            turn |= {"image": kept(run, f"{item.id}.png", buffer.getvalue()), "about": "picture"}
        if len(turns[item.image is not None]) % 2:
            turn["audio"] = kept(run, f"{item.id}.flac", encode_flac(item.audio, JUDGE_RATE))
        turns[item.image is not None].append(turn)
    pictured = [number % 7 in (2, 5) for number in range(TURNS)]
    return [
        [turns[shows][(number * TURNS + place) % len(turns[shows])] for place, shows in enumerate(pictured)]
        for number in range(TALKS)
    ]


def fits(turn: Turn, text: str) -> bool:
    """The recipe's judges: of pictures where one is shown, else of small talk."""
    from emova_data.nano.pictures import correct
    from emova_data.nano.text.talk import appropriate

    record = turn["record"]
    if turn.get("about") == "picture":
        return correct(cast(dict[str, str], record), text)
    return appropriate(record["intent"], record.get("slots", {}), text)


def talk_rows(run: Run, name: str, conversations: list[list[Turn]], how: str) -> list[Row]:
    """Whether turn 20 is as good as turn 2."""
    items = [
        Example(f"{name}-{number}", f"conversation {number}", facts={"turns": turns})
        for number, turns in enumerate(conversations)
    ]
    task = LongTalk(
        f"beyond-{name}", items, lambda item, text: fits(cast(Turn, item.facts), text), "the recipe's judges"
    )
    figure, found = run.run(task)

    def share(names: Sequence[str]) -> float:
        pairs = [record.values[name] for record in found for name in names if name in record.values]
        return 100 * sum(value for value, _ in pairs) / max(1.0, sum(weight for _, weight in pairs))

    first = share([f"turn_{number}" for number in range(1, TURNS // 4 + 1)])
    note = f"{how}; turns 1 to {TURNS // 4}: {first:.0f} %; each question alone: {share(['alone']):.0f} %"
    rows = [row_of(figure, f"{name}, turns {TURNS - TURNS // 4 + 1} to {TURNS}: answers right", None, note)]
    if figure.value is not None:
        lost = first - figure.value
        rows.append(Row("lost from the first quarter to the last", lost, 3, False, "%", figure.count, "points"))
    return rows


def mixed_rows(run: Run, seed: int) -> list[Row]:
    """As ``talk_rows``, with voice and pictures among the turns."""
    name = "mixed conversation"
    if not any((run.data / "speech").glob("question-test-*.tar")):
        return [missing(name, None, True, "emova data make nano --only question --only pictures")]
    return talk_rows(run, name, mixed_turns(run, seed), "every second turn spoken, six with a picture")


ROWS: dict[str, Callable[[Run, int, int], list[Row]]] = {
    "aloud": aloud_rows,
    "heard": heard_rows,
    "people": people_rows,
    "pictures": picture_rows,
    "things": thing_rows,
    "world": world_rows,
    "talk": lambda run, most, seed: talk_rows(run, "conversation", talk_turns(run, seed), "typed"),
    "mixed": lambda run, most, seed: mixed_rows(run, seed),
}
"""The second table, in its order."""


def rows(run: Run, most: int, seed: int, names: Sequence[str] = tuple(ROWS)) -> list[Row]:
    """The second table, or some of its rows; at most ``most`` items of each, 0 takes all.

    Raises:
        InputError: there are no such rows.
    """
    if unknown := [name for name in names if name not in ROWS]:
        raise InputError(f"rows={unknown[0]}: unknown; give some of {', '.join(ROWS)}")
    return [row for name in ROWS if name in names for row in ROWS[name](run, most, seed)]


def draw(items: Sequence[ItemT], most: int, seed: int) -> list[ItemT]:
    """``most`` of the items in a seeded order; 0 takes all."""
    chosen = list(items)
    random.Random(seed).shuffle(chosen)
    return chosen[: most or None]


def even(items: Sequence[Example], most: int, seed: int) -> list[Example]:
    """As ``draw``, with equal shares of the groups as far as they go."""
    seen: dict[str, int] = {}
    ranked = []
    for item in draw(items, 0, seed):
        seen[item.group] = seen.get(item.group, 0) + 1
        ranked.append((seen[item.group], item))
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])][: most or None]
