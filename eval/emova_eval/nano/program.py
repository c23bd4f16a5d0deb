"""``emova eval nano``: every figure that emova-nano must reach, from held-out data, in one table.

Held out are the speakers, the phrasings (or combinations of words in them) and the pictures. What is *not* held out is
named in the row: the sentences that the voice was taught, and the one speaker of the real recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from emova.checkpoint.loading import find_checkpoint
from emova.cli.common import EXAMPLES
from emova.core.errors import InputError
from emova.core.writing import make_folder, write_bytes, write_text
from emova.speech.audio import AudioLimits
from emova_eval.judges.voices import VoiceJudges, find_judges
from emova_eval.judges.words import WhisperJudge
from emova_eval.metrics.acoustics import shipped_judge
from emova_eval.models.assistant import AssistantModel, completed
from emova_eval.nano import beyond, dialogue, system
from emova_eval.nano.beyond import draw, row_of
from emova_eval.nano.data import DialogueItem, ShardSample, held_out_questions, load_dialogues, read_lines, read_shards
from emova_eval.report.goals import HEADER, Row, write_report
from emova_eval.report.page import page
from emova_eval.report.plots import plot_bars, plot_confusion
from emova_eval.report.tables import confusion
from emova_eval.suite.codec import PhoneTask, ReconstructionTask, StylesTask
from emova_eval.suite.run_folder import RunFolder, hash_files, hash_model, safe_name
from emova_eval.suite.runner import AskedT, Figure, figure_of, part, run_task
from emova_eval.suite.samples import Example, Record, Task, mean
from emova_eval.suite.tasks import TtsTask

HELD_OUT_FILES = (
    "text/talk.jsonl",
    "speech/question-test-*.tar",
    "speech/real-test-*.tar",
    "speech/actors-test-*.tar",
    "pictures/*-test-*.tar",
    "text/aloud_test.jsonl",
    "heard_test/*.jsonl",
)
PARTS = ("dialogue", "phones", "roundtrip", "reply", "style", "cost", "beyond")


@dataclass(frozen=True)
class NanoEvalConfig:
    """What is evaluated.

    Args:
        model: a checkpoint's name or folder; an export of a training too.
        codec: the checkpoint whose speech tokenizer and voice an export is heard with that has none of its own.
        data: the folder of the data recipe.
        output_dir: where the report goes; empty names a folder in ``runs`` after the model's hash.
        limit: at most so many talk and so many picture questions, and of each row beyond the recipe; 0 asks all.
        utterances: how many utterances the speech figures stand on; of the spoken replies, so many of each voice.
        parts: which parts run, of ``PARTS``.
        rows: which rows of the second table, of ``emova_eval.nano.beyond.ROWS``.
        seed: draws the items.
    """

    model: str = "emova-nano"
    codec: str = "emova-nano"
    data: str = "data/nano"
    output_dir: str = ""
    limit: int = 0
    utterances: int = 40
    parts: tuple[str, ...] = PARTS
    rows: tuple[str, ...] = tuple(beyond.ROWS)
    seed: int = 0

    @property
    def folder(self) -> Path:
        """The run's folder: another model never goes on in it."""
        return Path(self.output_dir or f"runs/eval-nano-{hash_model(find_checkpoint(self.model))[:8]}")


def judge_answer(item: DialogueItem, answer: str) -> bool:
    """Whether ``answer`` is right by the judge of the recipe that made the question."""
    from emova_data.nano.pictures import correct
    from emova_data.nano.text.talk import appropriate

    if item.kind == dialogue.TALK:
        return appropriate(item.record["intent"], item.record.get("slots", {}), answer)
    return correct({"type": item.record["type"], "key": item.record["key"]}, answer)


def rating_rows(records: Sequence[Record], judges: VoiceJudges, of: str) -> list[Row]:
    """A row for each judge of the sound ``of`` something, there or not; the goal is the first one's."""
    goals = {"naturalness": 3.3}
    rows = [
        Row(
            f"{rater.key}, {of}", mean(found) if found else None, goals.get(rater.key), True, "", len(found), rater.name
        )
        for rater in judges.raters
        for found in [part(records, rater.key)]
    ]
    absent = judges.absent_of_sound
    return rows + [Row(f"{key}, {of}", None, goals.get(key), True, note=why) for key, why in absent.items()]


class NanoRun:
    """One evaluation: its folder, its model, and the tasks that were run, with rows for the table."""

    def __init__(self, config: NanoEvalConfig) -> None:
        self.config = config
        self.data = Path(config.data)
        self.out = config.folder
        facts = {
            "model": config.model,
            "model_hash": hash_model(find_checkpoint(config.model)),
            "data": config.data,
            "data_hash": {pattern: hash_files(self.data.glob(pattern)) for pattern in HELD_OUT_FILES},
            "seed": config.seed,
            "asked": asdict(config),
        }
        self.folder = RunFolder(self.out, facts)
        found = find_checkpoint(config.model)
        whole = all((found / part).is_dir() for part in ("speech_tokenizer", "speech_detokenizer"))
        self.model = AssistantModel(
            config.model
            if whole
            else str(completed(found, find_checkpoint(config.codec), make_folder(self.out / "model")))
        )
        self.whisper = WhisperJudge(self.data / "sources" / "whisper-base")
        self.sound = find_judges(fetch=False)
        self.figures: list[Figure] = []
        self.records: list[Record] = []

    def run(self, task: Task[AssistantModel]) -> tuple[Figure, list[Record]]:
        """Ask a task's questions, going on where an earlier run stopped."""
        return self.asked(task, self.model)

    def asked(self, task: Task[AskedT], model: AskedT) -> tuple[Figure, list[Record]]:
        """As ``run``, of what a task asks in the model's place."""
        found = run_task(task, model, self.folder)
        if isinstance(task, dialogue.NanoDialogue):
            found = task.judge_again(found)
        figure = figure_of(task, found)
        self.figures.append(figure)
        self.records += found
        return figure, found

    def clips(self, samples: Sequence[ShardSample], answers: Callable[[ShardSample], str]) -> list[Example]:
        """Recordings of shards as files of the run, so that the report can play them."""
        media = self.out / "media"
        media.mkdir(exist_ok=True)
        items = []
        for sample in samples:
            path = media / f"{safe_name(sample.key)}.flac"
            write_bytes(path, sample.media["flac"])
            items.append(Example(sample.key, sample.facts["text"], str(path), answers=(answers(sample),)))
        return items

    def dialogue(self) -> list[Row]:
        """Questions by voice."""
        from emova_data.nano.pictures import KINDS

        items = load_dialogues(self.data, self.config.limit or None, self.config.seed)
        if not items:
            raise InputError(f"{self.data}: no held-out question was spoken; run `emova data make nano`")
        task = dialogue.NanoDialogue(items, judge_answer, self.whisper, self.config.utterances, self.sound.raters)
        _, found = self.asked(task, self.model.assistant)
        if shares := dialogue.picture_shares(found):
            plot_bars(self.out / "pictures.png", shares, "Picture questions by voice, unseen pictures", 75)
        heard = [record for record in found if record.id in task.heard]
        return dialogue.dialogue_rows(found, items, KINDS) + rating_rows(heard, self.sound, "spoken reply")

    def phones(self) -> list[Row]:
        """Phones of real recordings: of one speaker and, where the recipe's step ``actors`` was made, of many."""
        return [
            *self._phones("real", "real recordings", 18, "held-out clips of a speaker of the training clips"),
            *self._phones("actors", "actors", None, "held-out lines of a game, 11 kHz; training heard others"),
        ]

    def _phones(self, shards: str, name: str, goal: float | None, note: str) -> list[Row]:
        folder, pattern = self.data / "speech", f"{shards}-test-*.tar"
        if goal is None and not any(folder.glob(pattern)):
            return []
        held_out = list(read_shards(folder, pattern))
        longest = AudioLimits().max_seconds  # the assistant itself refuses more
        short = [clip for clip in held_out if clip.facts["seconds"] <= longest]
        items = self.clips(
            draw(short, self.config.utterances, self.config.seed), lambda sample: " ".join(sample.facts["phones"])
        )
        figure, _ = self.run(PhoneTask(f"nano-phones-{shards}", items, "Whisper base and G2P"))
        if len(short) < len(held_out):
            note += f"; {len(held_out) - len(short)} longer than {longest:g} s left out"
        return [row_of(figure, f"phone error, {name}", goal, note)]

    def roundtrip(self) -> list[Row]:
        """Words through units and back: of voices that the tokenizer never heard, and of those that it knows."""
        rows = []
        for task, unheard, name in (
            ("nano-roundtrip", True, "unheard voices"),
            ("nano-roundtrip-known", False, "voices of the training, unseen sentences"),
        ):
            spoken = draw(held_out_questions(self.data, unheard), self.config.utterances, self.config.seed)
            items = self.clips(spoken, lambda sample: sample.facts["text"])
            figure, _ = self.run(ReconstructionTask(task, items, self.whisper, self.sound))
            note = f"{name}; the recordings themselves: {100 * figure.extra.get('recordings', 1):.1f} %"
            title = "units round trip, word error" if unheard else "units round trip, known voices, word error"
            rows.append(row_of(figure, title, 12, note))
        return rows

    def reply(self) -> list[Row]:
        """Sentences read aloud by the language model's own units: answers that it was taught, and unseen sentences."""
        answers = sorted({row["answer"] for row in read_lines(self.data / "text" / "talk.jsonl")})
        lines = read_lines(self.data / "text" / "sentences.jsonl")
        unseen = sorted({row["text"] for row in lines if row["split"] == "test"})
        rows: list[Row] = []
        spoken: list[Record] = []
        for voice in ("female", "male"):
            for name, texts, note in (
                ("answer read aloud", answers, "answers of the recipe, which training speaks too"),
                ("unseen sentence read aloud", unseen, "sentences of the test split"),
            ):
                items = [Example(text, text) for text in draw(texts, self.config.utterances, self.config.seed)]
                task_name = f"nano-{name.split()[0]}-{voice}"
                judges = self.sound if texts is answers else VoiceJudges()
                figure, found = self.run(TtsTask(task_name, items, self.whisper, voice=voice, judges=judges))
                rows.append(row_of(figure, f"{name}, word error, {voice}", None, note))
                spoken += found
        return rows + rating_rows(spoken, self.sound, "read aloud")

    def style(self) -> list[Row]:
        """What the 24 styles do in the waveform."""
        real = draw(held_out_questions(self.data), max(self.config.utterances // 10, 2), 1)
        task = StylesTask("nano-styles", self.clips(real, lambda sample: sample.facts["text"]), shipped_judge())
        figure, found = self.run(task)
        if matrix := confusion(found, "emotion"):
            plot_confusion(self.out / "emotions.png", *matrix, "Emotion asked and heard")
        extra, recordings = figure.extra, len(real)
        return [
            Row("pitch low < normal < high", 100 * extra["pitch_order"], 95, True, "%", 8 * recordings, "median F0"),
            row_of(figure, "emotion heard in the waveform", 75),
            Row("same length in every style", 100 * extra["same_length"], 100, True, "%", recordings,
                "the units are the same by construction; here is measured that each lasts as long"),
            Row("units heard again in a style, changed", 100 * extra["units_again"], None, False, "%", figure.count,
                f"edit distance over length; between two recordings {100 * extra.get('units_other', 1):.0f} %"),
            Row("female voice above male", 100 * extra["gender_order"], None, True, "%", 12 * recordings, "median F0"),
        ]  # fmt: skip

    def beyond(self) -> list[Row]:
        """The second table: what the recipe did not make."""
        found = beyond.rows(self, self.config.limit, self.config.seed, self.config.rows)
        return [replace(row, table="Beyond the recipe") for row in found]

    def cost(self) -> list[Row]:
        """Time and memory."""
        return system.cost_rows(system.measure_costs(self.config.model, example("question.wav"), example("photo.png")))

    def report(self, rows: Sequence[Row]) -> None:
        """Write what there is."""
        write_report(self.out, rows, self.folder.facts, [figure.as_json() for figure in self.figures])
        tables = [
            (name or "Goals", HEADER, [row.cells() for row in rows if row.table == name])
            for name in dict.fromkeys(row.table for row in rows)
        ]
        title = f"{self.config.model}: held-out figures"
        write_text(self.out / "report.html", page(title, self.figures, self.folder, self.records, tables))


def evaluate(config: NanoEvalConfig, advance: Callable[[str], object] = lambda part: None) -> list[Row]:
    """Run the chosen parts, write the report and the plots to the run's folder, and return the table's rows."""
    unknown = set(config.parts) - set(PARTS)
    if unknown:
        raise InputError(f"parts: {sorted(unknown)[0]!r} is unknown; choose from {', '.join(PARTS)}")
    run = NanoRun(config)
    rows: list[Row] = []
    try:
        for part in (name for name in PARTS if name in config.parts):
            advance(part)
            rows += getattr(run, part)()
    finally:
        run.report(rows)
    return rows


def example(name: str) -> Path:
    """The path of a shipped example file."""
    return EXAMPLES / name
