"""The recipe ``nano`` step by step: sources, texts, pictures, speech, manifest.

Every step can be called again: what is finished and still wanted is kept, so that an interrupted run continues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from emova_data.nano import manifest, packages
from emova_data.nano.speech.sets import (
    Question,
    SpeechPlan,
    TextRow,
    plan_answers,
    plan_parallel,
    plan_questions,
    plan_questions_kokoro,
    plan_questions_test,
    plan_s2u,
    plan_s2u_kokoro,
    plan_s2u_test,
    plan_style,
    plan_style_test,
    plan_tts,
    read_lines,
)
from emova_data.nano.speech.shard_maker import Item, ShardInfo, make_set

PICTURES = {"train": 30_000, "test": 800}


class Progress:
    """What a step tells the user; this one tells nothing. The command line draws bars instead."""

    def start(self, what: str, total: int | None) -> None:
        """A part of the work begins; ``total`` pieces, or unknown."""

    def advance(self, note: str = "") -> None:
        """A piece is done."""


def speak(
    items: Sequence[Item], folder: Path, sources: Path, progress: Progress, *, jobs: int = 1, per_shard: int = 200
) -> list[ShardInfo]:
    """Make the shards of one set and split in ``folder``, and tell how far it is."""
    if not items:
        return []
    progress.start(f"{items[0].set}-{items[0].split}", len(items))

    def report(info: ShardInfo, made: bool) -> None:
        for _ in range(info.items):
            progress.advance("" if made else "(there)")

    return make_set(folder, items, sources, jobs=jobs, per_shard=per_shard, report=report)


@dataclass(frozen=True)
class Recipe:
    """Where and how much.

    Args:
        root: the data folder (``data``); the recipe writes to ``root/nano`` and downloads to ``root/downloads``.
        seed: of every random choice.
        jobs: processes.
        plan: amounts of speech.
    """

    root: Path
    seed: int = 0
    jobs: int = 1
    plan: SpeechPlan = field(default_factory=SpeechPlan)
    progress: Progress = field(default_factory=Progress)

    @property
    def folder(self) -> Path:
        return self.root / "nano"

    @property
    def text(self) -> Path:
        return self.folder / "text"

    @property
    def source_folder(self) -> Path:
        return self.folder / "sources"

    def lines(self, name: str) -> list[TextRow]:
        """The records of ``text/NAME.jsonl``. Raises: InputError: not made yet."""
        return read_lines(self.text / f"{name}.jsonl")

    def speak(self, items: list[Item]) -> list[ShardInfo]:
        """Make the shards of one set and split."""
        return speak(items, self.folder / "speech", self.source_folder, self.progress, jobs=self.jobs)


def _sources(recipe: Recipe) -> None:
    recipe.progress.start("sources", len(packages.SOURCES))
    packages.fetch(recipe.root, report=recipe.progress.advance)


def _text(recipe: Recipe) -> None:
    from emova_data.nano.pictures import write_texts
    from emova_data.nano.text import outside, sentences, talk

    recipe.progress.start("text", 4)
    sentences.write_jsonl(recipe.text / "sentences.jsonl", sentences.build(seed=recipe.seed))
    recipe.progress.advance()
    sentences.write_jsonl(recipe.text / "talk.jsonl", talk.build(recipe.seed))
    recipe.progress.advance()
    sentences.write_jsonl(recipe.text / "outside.jsonl", outside.build(recipe.seed))
    recipe.progress.advance()
    write_texts(recipe.text)
    recipe.progress.advance()


def _pictures(recipe: Recipe) -> None:
    from emova_data.nano.pictures import make_pictures

    def report(made: int) -> None:
        for _ in range(made):
            recipe.progress.advance()

    for split, count in PICTURES.items():
        recipe.progress.start(f"pictures-{split}", count)
        out = recipe.folder / "pictures"
        make_pictures(out, recipe.seed, count, split, recipe.jobs, recipe.source_folder, report)


def _s2u(recipe: Recipe) -> None:
    sentences = recipe.lines("sentences")
    recipe.speak(plan_s2u(sentences, recipe.plan, recipe.seed))
    recipe.speak(plan_s2u_test(sentences, recipe.plan, recipe.seed))


def _kokoro(recipe: Recipe) -> None:
    recipe.speak(plan_s2u_kokoro(recipe.lines("sentences"), recipe.plan, recipe.seed))
    recipe.speak(plan_questions_kokoro(_all_questions(recipe), recipe.plan, recipe.seed))


def _real(recipe: Recipe) -> None:
    from emova_data.nano.speech.real import RECORDINGS, label_real

    labels = label_real(
        recipe.source_folder, recipe.folder / "labels" / "real.jsonl", threads=max(recipe.jobs, 1),
        report=_counted(recipe, "labels of real speech"),
    )  # fmt: skip
    RECORDINGS.write(recipe.folder / "speech", labels)


def _actors(recipe: Recipe) -> None:
    from emova_data.nano.speech.actors import Container, label_actors, recordings

    container = Container.read()
    labels = label_actors(
        container, recipe.source_folder, recipe.folder / "labels" / "actors.jsonl", threads=max(recipe.jobs, 1),
        report=_counted(recipe, "labels of actors' speech"),
    )  # fmt: skip
    recordings(container).write(recipe.folder / "speech", labels)


def _counted(recipe: Recipe, what: str) -> Callable[[int, int], None]:
    """A report (done, total) that shows as the progress of ``what``."""
    started = False

    def report(done: int, total: int) -> None:
        nonlocal started
        if not started:
            recipe.progress.start(what, total)
            started = True
        recipe.progress.advance()

    return report


def _all_answers(recipe: Recipe) -> list[tuple[str, str]]:
    rows = [(row["id"], row["answer"]) for row in recipe.lines("talk")]
    rows += [(f"pa{number:05d}", row["text"]) for number, row in enumerate(recipe.lines("picture_answers"))]
    # What came later comes last, so that the shards of what was there before stay as they are.
    return rows + [(row["id"], row["answer"]) for row in recipe.lines("outside")]


def _style(recipe: Recipe) -> None:
    """Three quarters general sentences, one quarter answers about pictures."""
    count = recipe.plan.style_sentences
    answers = _shuffled([row["text"] for row in recipe.lines("picture_answers")], recipe.seed)[: count // 4]
    train = _shuffled(_sentences(recipe), recipe.seed)
    texts = answers + train[: count - len(answers)]
    recipe.speak(plan_style(texts, recipe.plan, recipe.seed))
    recipe.speak(plan_style_test(_sentences(recipe, "test"), recipe.plan, recipe.seed))


def _parallel(recipe: Recipe) -> None:
    """Two thirds general sentences, one third questions."""
    count = recipe.plan.parallel_texts
    questions = _shuffled(_asked(recipe), recipe.seed)[: count // 3]
    sentences = _shuffled(_sentences(recipe), recipe.seed)[: count - len(questions)]
    recipe.speak(plan_parallel(questions + sentences, recipe.plan, recipe.seed))


def _tts(recipe: Recipe) -> None:
    """Sentences, what Kokoro asks, and other questions."""
    natural = [item.text for item in plan_questions_kokoro(_all_questions(recipe), recipe.plan, recipe.seed)]
    texts = [*_sentences(recipe), *natural, *_shuffled(_asked(recipe), recipe.seed)]
    recipe.speak(plan_tts(texts, recipe.plan, recipe.seed))


def _sentences(recipe: Recipe, split: str = "train") -> list[str]:
    return [row["text"] for row in recipe.lines("sentences") if row["split"] == split]


def _asked(recipe: Recipe) -> list[str]:
    return list(dict.fromkeys(question.text for question in _all_questions(recipe) if question.split == "train"))


def _shuffled(texts: list[str], seed: int) -> list[str]:
    from emova.core.seeding import generator

    return [texts[int(i)] for i in generator("order", seed).permutation(len(texts))]


def _answer(recipe: Recipe) -> None:
    recipe.speak(plan_answers(_all_answers(recipe), recipe.plan, recipe.seed))


def _all_questions(recipe: Recipe) -> list[Question]:
    from emova_data.nano.text.talk import MORE

    talk = [
        Question(
            r["id"], r["question"], r["split"], r.get("user_emotion") or "neutral", r.get("user_pitch") or "normal"
        )
        for r in recipe.lines("talk")
    ]
    pictures = [Question(r["id"], r["text"], r["split"]) for r in recipe.lines("picture_questions")]
    # Later phrasings come last, so that the shards of those before stay as they are.
    return sorted([*talk, *pictures], key=lambda question: question.id.startswith(MORE))


def _question(recipe: Recipe) -> None:
    questions = _all_questions(recipe)
    # The few of the test first: with them and the first shards much can be tried before the last are made.
    recipe.speak(plan_questions_test(questions, recipe.plan, recipe.seed))
    recipe.speak(plan_questions(questions, recipe.plan, recipe.seed))
    # A set of their own: the test's draw stays as it was.
    outside = [Question(row["id"], row["question"], row["split"]) for row in recipe.lines("outside")]
    items = plan_questions(outside, recipe.plan, recipe.seed)
    recipe.speak([replace(item, set="question_outside", key=f"outside_{item.key}") for item in items])


def _voice_conversion(recipe: Recipe) -> None:
    from emova_data.nano.voices.voice_conversion import OF_SETS, make_converted

    folder = recipe.folder / "speech"
    shards = [path for name in OF_SETS for path in sorted(folder.glob(f"{name}-train-*.tar"))]
    recipe.progress.start("voice_conversion-train", len(shards))
    make_converted(folder, shards, recipe.seed, recipe.jobs, report=lambda info: recipe.progress.advance())


def _manifest(recipe: Recipe) -> None:
    recipe.progress.start("manifest", 1)
    manifest.write(recipe.folder, recipe.plan, recipe.seed)
    recipe.progress.advance()


STEPS: dict[str, tuple[str, Callable[[Recipe], None]]] = {
    "sources": ("download and verify what the other steps need", _sources),
    "text": ("sentences and talk", _text),
    "pictures": ("pictures with questions and answers", _pictures),
    "s2u": ("speech in many voices for the speech tokenizer", _s2u),
    "real": ("recordings of a real person, labelled by a recogniser", _real),
    "actors": ("recordings of many actors, labelled by a recogniser and their script", _actors),
    "style": ("the 24 speaking styles for the detokenizer", _style),
    "parallel": ("the same sentences by the canonical voice and by others, for the detokenizer", _parallel),
    "tts": ("sentences in the canonical voice, to learn reading aloud", _tts),
    "answer": ("every answer once in the canonical voice", _answer),
    "question": ("every question in several voices; held-out families for the test", _question),
    "kokoro": ("more training speech from the slowest voices", _kokoro),
    "voice_conversion": ("natural voices' recordings, converted to other speakers", _voice_conversion),
    "manifest": ("counts, hours, licences and checksums", _manifest),
}


RecipeT = TypeVar("RecipeT")


def run_steps(
    steps: Mapping[str, tuple[str, Callable[[RecipeT], None]]], recipe: RecipeT, only: Sequence[str] | None
) -> None:
    """Run all steps, or those in ``only``, in their order."""
    for name, (_, run) in steps.items():
        if only is None or name in only:
            run(recipe)


def make(recipe: Recipe, only: list[str] | None = None) -> None:
    """Run all steps, or those in ``only``, in the recipe's order. Raises: InputError: a step lacks what it needs."""
    run_steps(STEPS, recipe, only)
    if only is not None and "manifest" not in only:
        _manifest(recipe)
