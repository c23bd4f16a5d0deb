"""The recipe ``nano-zh`` step by step: a data folder of the recipe nano's layout, in Mandarin and English.

Mandarin by Kokoro's voices, two of which only tests hear; English by rule-made voices. So ``emova train s2u``,
``units``, ``tokenizer`` and the stages read it as they read nano's, by ``data.root: data/nano-zh``. Kokoro lies in
``data/nano/sources`` (``emova data fetch nano``). What is there is kept, so an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emova.core.errors import InputError
from emova.core.seeding import generator
from emova_data.nano.recipe import Progress, run_steps, speak
from emova_data.nano.speech.shard_maker import Item, ShardInfo
from emova_data.nano.text import sentences as english
from emova_data.nano.text import talk as english_talk
from emova_data.nano.text.sentences import write_jsonl
from emova_data.nano.voices.styles import NANO_STYLES
from emova_data.nano.voices.voices import KOKORO_MANDARIN, PSEUDO_VOICES
from emova_data.nano_zh import text

HELD_OUT = ("zf_xiaoyi", "zm_yunyang")
TRAINING = tuple(voice for voice in KOKORO_MANDARIN if voice not in HELD_OUT)
CANONICAL = {"zh": ("kokoro/zf_xiaoxiao", "kokoro/zm_yunxi"), "en": ("hibari/female", "hibari/male")}
RATE, STYLE_RATE = 16000, 24000
_STYLED_SHARE = 0.5
_STYLES = tuple((emotion, pitch) for emotion in NANO_STYLES.emotions for pitch in NANO_STYLES.pitches)


@dataclass(frozen=True)
class Amounts:
    """How much is made.

    Attributes:
        sentences, test: Mandarin sentences for the codec; as many English ones beside them.
        dialogues: training phrasings an intent.
        english_dialogues: the same of English intents, of which as many exchanges are taken as Mandarin has.
        style_sentences: Mandarin sentences in all 24 styles.
        parallel: held-out sentences that several voices say in several emotions, to measure what units keep of them.
    """

    sentences: int = 2400
    test: int = 200
    dialogues: int = 30
    english_dialogues: int = 6
    style_sentences: int = 24
    parallel: int = 12


@dataclass(frozen=True)
class RecipeZh:
    """Where and how much; ``root`` is the data folder, the recipe writes to ``root/nano-zh``."""

    root: Path
    seed: int = 0
    jobs: int = 1
    amounts: Amounts = field(default_factory=Amounts)
    progress: Progress = field(default_factory=Progress)

    @property
    def folder(self) -> Path:
        return self.root / "nano-zh"

    def speak(self, items: Sequence[Item]) -> list[ShardInfo]:
        """Make the shards of one set and split."""
        sources = self.root / "nano" / "sources"
        return speak(items, self.folder / "speech", sources, self.progress, jobs=self.jobs, per_shard=100)


def voice_for(language: str, words: str, seed: int, *, held_out: bool = False) -> str:
    """A voice that is drawn by what it says."""
    rng = generator("zh-voice", seed, words)
    if language == "zh":
        names = HELD_OUT if held_out else TRAINING
        return f"kokoro/{names[int(rng.integers(len(names)))]}"
    if held_out:
        return "piper/joe"
    return f"hibari/p{int(rng.integers(PSEUDO_VOICES)):02d}"


def spoken(number: int, row: Mapping[str, str], name: str, seed: int) -> Item:
    """A sentence by a drawn voice, half of them in a drawn style; every other test item by a voice only tests hear."""
    language, split, words = row["language"], row["split"], row["text"]
    held_out = split == "test" and number % 2 == 1
    rng = generator("zh-style", seed, words)
    styled = rng.random() < _STYLED_SHARE and not held_out
    emotion, pitch = _STYLES[int(rng.integers(len(_STYLES)))] if styled else ("neutral", "normal")
    voice = voice_for(language, words, seed, held_out=held_out)
    return Item(f"{name}_{language}_{split}_{number:06d}", words, voice, name, split, RATE, emotion, pitch, seed)


def _texts(recipe: RecipeZh) -> None:
    amounts, folder = recipe.amounts, recipe.folder / "text"
    recipe.progress.start("text", 2)
    mixed: list[dict[str, object]] = []
    mandarin = text.sentences(amounts.sentences, amounts.test, recipe.seed)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for row in english.build(seed=recipe.seed):
        kept = rows[str(row["split"])]
        if len(kept) < (amounts.sentences if row["split"] == "train" else amounts.test):
            kept.append({"id": str(row["id"]), "split": str(row["split"]), "text": str(row["text"]), "language": "en"})
    write_jsonl(folder / "sentences.jsonl", [*mandarin, *rows["train"], *rows["test"]])
    recipe.progress.advance()
    own = text.talk(recipe.seed, amounts.dialogues)
    others = english_talk.build(recipe.seed, amounts.english_dialogues, 2, 0)  # in an order that is drawn
    for split in ("train", "test"):
        count = sum(row["split"] == split for row in own)
        chosen = [row for row in others if row["split"] == split][:count]
        mixed += [{**row, "language": "en"} for row in chosen]
    write_jsonl(folder / "talk.jsonl", [*own, *mixed])
    recipe.progress.advance()


def _lines(recipe: RecipeZh, name: str) -> list[dict[str, str]]:
    import json

    path = recipe.folder / "text" / f"{name}.jsonl"
    if not path.is_file():
        raise InputError(f"{path}: missing; run `emova data make nano-zh --only text` first")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _s2u(recipe: RecipeZh) -> None:
    rows = _lines(recipe, "sentences")
    for split in ("train", "test"):
        own = [row for row in rows if row["split"] == split]
        recipe.speak([spoken(number, row, "s2u", recipe.seed) for number, row in enumerate(own)])


def _parallel(recipe: RecipeZh) -> None:
    """Held-out sentences by several voices in several emotions: what a change of them does to units."""
    rows = [row for row in _lines(recipe, "sentences") if row["split"] == "test"]
    items = []
    for language in ("zh", "en"):
        voices = (*TRAINING[:2], *HELD_OUT) if language == "zh" else ("p03", "p17", "p22", "p28")
        family = "kokoro" if language == "zh" else "hibari"
        for number, row in enumerate([row for row in rows if row["language"] == language][: recipe.amounts.parallel]):
            for voice in voices:
                for emotion in NANO_STYLES.emotions:
                    key = f"parallel_{language}_{number:04d}_{voice}_{emotion}"
                    items.append(Item(key, row["text"], f"{family}/{voice}", "parallel", "test", RATE, emotion,
                                      seed=recipe.seed))  # fmt: skip
    recipe.speak(items)


def _style(recipe: RecipeZh) -> None:
    """Mandarin sentences in all 24 styles by the two voices that answer: a voice's styles and their prototypes."""
    rows = [row["text"] for row in _lines(recipe, "sentences") if row["language"] == "zh" and row["split"] == "train"]
    items = [
        Item(f"style_{number:05d}_{voice.split('/')[1]}_{emotion}_{pitch}", words, voice, "style", "train", STYLE_RATE,
             emotion, pitch, recipe.seed)
        for number, words in enumerate(rows[: recipe.amounts.style_sentences])
        for voice in CANONICAL["zh"]
        for emotion, pitch in _STYLES
    ]  # fmt: skip
    recipe.speak(items)


def _question(recipe: RecipeZh) -> None:
    rows = _lines(recipe, "talk")
    for split in ("train", "test"):
        items = []
        for number, row in enumerate(row for row in rows if row["split"] == split):
            said = {"language": row["language"], "split": split, "text": row["question"]}
            items.append(spoken(number, said, "question", recipe.seed))
        recipe.speak(items)


def _answer(recipe: RecipeZh) -> None:
    answers = {row["answer"]: row["language"] for row in _lines(recipe, "talk")}
    recipe.speak([
        Item(f"answer_{number:06d}", words, CANONICAL[language][0], "answer", "train", RATE, seed=recipe.seed)
        for number, (words, language) in enumerate(answers.items())
    ])  # fmt: skip


STEPS: dict[str, tuple[str, Callable[[RecipeZh], None]]] = {
    "text": ("sentences and dialogues in both languages", _texts),
    "s2u": ("speech in both languages for the speech tokenizer", _s2u),
    "parallel": ("the same sentences by several voices in several emotions, to measure units", _parallel),
    "style": ("Mandarin in the 24 speaking styles, for the detokenizer", _style),
    "question": ("every question once", _question),
    "answer": ("every answer once in the voice of its language", _answer),
}


def make(recipe: RecipeZh, only: Sequence[str] | None = None) -> None:
    """Run all steps, or those in ``only``, in the recipe's order. Raises: InputError: a step lacks what it needs."""
    run_steps(STEPS, recipe, only)
