"""``emova eval all --offline``: what needs no hub, on fixtures made here; the other tasks are named as missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from emova.errors import InputError
from eval.grading import OfflineJudge
from eval.runner import Figure, missing_figure
from eval.samples import Example
from eval.scoring import METRICS
from eval.suite import TASKS, SuiteConfig, UnitsTask, make_ears
from eval.tasks import DIALOGUE_MODES, AsrTask, DialogueTask, MetricTask, SpokenQaTask, TtsTask

COLOURS = ("red", "green", "blue", "yellow")
SENTENCES = ("The train is on time.", "It is a sunny day.", "There are three red balls.", "Good morning to you.")


def picture_tasks(folder: Path) -> list[MetricTask]:
    """Plain coloured pictures under each metric of the vision benchmarks that needs no language model."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for colour in COLOURS:
        files[colour] = str(folder / f"{colour}.png")
        Image.new("RGB", (64, 64), colour).save(files[colour])
    plain = [
        Example(colour, "What colour is it?", images=(files[colour],), answers=(colour,), metric="vqa")
        for colour in COLOURS
    ]
    turned = [
        dataclasses.replace(
            plain[i], id=str(turn * 1_000_000 + i), choices=(*COLOURS[turn:], *COLOURS[:turn]), metric="circular"
        )
        for i in range(len(COLOURS))
        for turn in range(len(COLOURS))
    ]
    asked = [
        Example(
            f"{colour}/{said}",
            f"Is it {said}? Please answer yes or no.",
            images=(files[colour],),
            answers=("Yes" if said == colour else "No",),
            metric="mme",
            group="color",
            facts={"picture": colour},
        )
        for colour, other in zip(COLOURS, reversed(COLOURS), strict=True)
        for said in (colour, other)
    ]
    tasks = [MetricTask(f"fixture-{name}", plain, METRICS[name]) for name in ("vqa", "anls", "contains", "ocrbench")]
    return [
        *tasks,
        MetricTask("fixture-circular", turned, METRICS["circular"]),
        MetricTask("fixture-mme", asked, METRICS["mme"]),
    ]


def speech_tasks(config: SuiteConfig, question: Path, words: str, photo: Path) -> list[MetricTask | Figure]:
    """The shipped spoken question: recognised, counted in units, answered; and sentences read aloud."""
    heard = Example("question", words, str(question), answers=(words,))
    asked = dataclasses.replace(heard, images=(str(photo),), answers=("",))
    tasks: list[MetricTask | Figure] = [AsrTask("fixture-asr", [heard]), UnitsTask("fixture-units", [heard])]
    judge = OfflineJudge()
    tasks += [
        DialogueTask(f"fixture-dialogue-{mode}", [asked], mode, judge)
        for mode in DIALOGUE_MODES
        if mode != "end-to-end"
    ]
    tasks.append(SpokenQaTask("fixture-spoken-qa-s2t", [asked]))
    heard_by_another = ("fixture-tts", "fixture-dialogue-end-to-end", "fixture-spoken-qa-s2s")
    try:
        ears = make_ears(config)
    except InputError as error:
        return tasks + [missing_figure(name, str(error)) for name in heard_by_another]
    sentences = [Example(str(i), text) for i, text in enumerate(SENTENCES)]
    return [
        *tasks,
        TtsTask(heard_by_another[0], sentences, ears),
        DialogueTask(heard_by_another[1], [asked], "end-to-end", judge, ears),
        SpokenQaTask(heard_by_another[2], [asked], ears),
    ]


def offline_tasks(config: SuiteConfig) -> list[MetricTask | Figure]:
    """All that can run here, then a line for each benchmark that cannot."""
    from eval.nano import example

    tasks: list[MetricTask | Figure] = list(picture_tasks(Path(config.output_dir) / "fixtures"))
    words = example("question.txt").read_text(encoding="utf-8").strip()
    tasks += speech_tasks(config, example("question.wav"), words, example("photo.png"))
    reason = "its data set is not here; run `emova eval {} --data …`"
    return tasks + [missing_figure(name, reason.format(name)) for name in TASKS if name != "own"]
