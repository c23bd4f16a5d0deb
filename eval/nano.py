"""``emova eval nano``: every figure that emova-nano must reach, from held-out data, in one table."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from emova.errors import InputError
from emova.style import EMOTIONS, GENDERS, PITCHES
from eval import dialogue, speech, system
from eval.acoustics import EmotionClassifier, measure
from eval.judges import JUDGE_RATE, NaturalnessJudge, WhisperJudge
from eval.nano_data import DialogueItem, ShardSample, held_out_questions, load_dialogues, read_shards
from eval.report import Row, plot_bars, plot_confusion, write_report

PARTS = ("dialogue", "phones", "roundtrip", "reply", "style", "cost")


@dataclass(frozen=True)
class NanoEvalConfig:
    """What is evaluated.

    Args:
        model: a checkpoint's name or folder.
        data: the folder of the data recipe.
        output_dir: where the report goes.
        limit: at most so many talk and so many picture questions; 0 asks all.
        utterances: how many utterances the speech figures stand on.
        parts: which parts run, of ``PARTS``.
        seed: draws the items.
    """

    model: str = "emova-nano"
    data: str = "data/nano"
    output_dir: str = "runs/eval-nano"
    limit: int = 0
    utterances: int = 40
    parts: tuple[str, ...] = PARTS
    seed: int = 0


def judge_answer(item: DialogueItem, answer: str) -> bool:
    """Whether ``answer`` is right by the judge of the recipe that made the question."""
    from data_recipes.nano.pictures import correct
    from data_recipes.nano.talk import appropriate

    if item.kind == "talk":
        return appropriate(item.record["intent"], item.record.get("slots", {}), answer)
    return correct(item.record, answer)


def draw(samples: Sequence[ShardSample], count: int, seed: int) -> list[ShardSample]:
    """``count`` of ``samples`` in a seeded order."""
    chosen = list(samples)
    random.Random(seed).shuffle(chosen)
    return chosen[:count]


def train_emotion_judge(seed: int, per_style: int = 20) -> EmotionClassifier:
    """Train the emotion classifier on the recipe's renderings of voices that emova never speaks with."""
    from data_recipes.nano.judge_voices import render_judge_voices

    features, labels = [], []
    for emotion, samples in render_judge_voices(per_style, seed, sample_rate=JUDGE_RATE):
        features.append(measure(samples).vector())
        labels.append(emotion)
    return EmotionClassifier(seed).fit(np.stack(features), labels)


def evaluate(config: NanoEvalConfig, advance: Callable[[str], Any] = lambda part: None) -> list[Row]:
    """Run the chosen parts, write the report and the plots to ``config.output_dir``, and return the table's rows."""
    from emova.assistant import Assistant

    unknown = set(config.parts) - set(PARTS)
    if unknown:
        raise InputError(f"parts: {sorted(unknown)[0]!r} is unknown; choose from {', '.join(PARTS)}")
    data, output = Path(config.data), Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    whisper = WhisperJudge(data / "sources" / "whisper-base")
    natural = NaturalnessJudge()
    assistant = Assistant.from_pretrained(config.model)
    rows: list[Row] = []
    if "dialogue" in config.parts:
        advance("dialogue")
        items = load_dialogues(data, config.limit or None, config.seed)
        verdicts = dialogue.run_dialogues(assistant, items, judge_answer, output / "dialogues.jsonl")
        rows += dialogue.dialogue_rows(verdicts)
        shares = dialogue.picture_shares(verdicts)
        if shares:
            plot_bars(output / "pictures.png", shares, "Picture questions by voice, unseen pictures", 75)
    if "phones" in config.parts:
        advance("phones")
        real = draw(list(read_shards(data / "speech", "real-test-*.tar")), config.utterances, config.seed)
        rows.append(speech.phone_error_row(assistant, real, "phone error, real recordings", 18))
    if "roundtrip" in config.parts:
        advance("roundtrip")
        spoken = draw(held_out_questions(data), config.utterances, config.seed)
        rows.append(speech.round_trip_row(assistant, spoken, whisper))
    if "reply" in config.parts:
        advance("reply")
        texts = [line["answer"] for line in map(json.loads, open_lines(data / "text" / "talk.jsonl"))]
        texts = draw(sorted(set(texts)), config.utterances, config.seed)  # type: ignore[arg-type]
        rows += speech.spoken_reply_rows(assistant, texts, whisper, natural)  # type: ignore[arg-type]
    if "style" in config.parts:
        advance("style")
        judge = train_emotion_judge(config.seed)
        real = draw(held_out_questions(data), max(config.utterances // 10, 2), 1)
        units = [np.array(assistant.tokenize(sample.audio(JUDGE_RATE))) for sample in real]
        figures = speech.judge_styles(assistant, units, judge)
        rows += figures.rows("classifier trained on other voices with the recipe's renderings")
        plot_confusion(output / "emotions.png", figures.confusion_NN, EMOTIONS, "Emotion asked and heard")
    if "cost" in config.parts:
        advance("cost")
        rows += system.cost_rows(system.measure_costs(config.model, example("question.wav"), example("photo.png")))
    settings = {**asdict(config), "styles": len(list(product(GENDERS, EMOTIONS, PITCHES))), "judge": whisper.name}
    write_report(output, rows, settings)
    return rows


def example(name: str) -> Path:
    """The path of a shipped example file."""
    import emova

    return Path(next(iter(emova.__path__))) / "checkpoints" / "examples" / name


def open_lines(path: Path) -> list[str]:
    """The lines of a recipe's text file."""
    if not path.is_file():
        raise InputError(f"{path}: missing; run `emova data make nano`")
    return path.read_text(encoding="utf-8").splitlines()
