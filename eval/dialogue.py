"""Spoken dialogue: every held-out question is asked by voice, the model decodes its answer, recipes' judges decide.

Answers are kept sample by sample in ``dialogues.jsonl``; a run that was stopped goes on after the last whole line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.nano_data import DialogueItem
from eval.report import Row
from eval.text import ErrorRate, word_errors

if TYPE_CHECKING:
    from emova.assistant import Assistant

Judge = Callable[[DialogueItem, str], bool]


@dataclass(frozen=True)
class Verdict:
    """What was asked, what came back, and how it was judged. ``seconds`` is the time of the whole answer."""

    id: str
    kind: str
    voice: str
    question: str
    transcript: str
    answer: str
    right: bool
    emotion: str
    asked_emotion: str
    pitch: str
    asked_pitch: str
    units: int
    complete: bool
    edits: int
    words: int
    seconds: float
    error: str = ""


def answer_one(assistant: Assistant, item: DialogueItem, judge: Judge) -> Verdict:
    """Ask one question by voice; a failure of the model is a wrong answer, counted and named."""
    import time

    begun = time.perf_counter()
    transcript = text = emotion = pitch = error = ""
    units: Sequence[int] = ()
    try:
        reply = assistant.chat(audio=item.audio, image=item.image)
        transcript, text, emotion, pitch, units = reply.transcript, reply.text, reply.emotion, reply.pitch, reply.units
    except (ValueError, RuntimeError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    words = word_errors(item.question, transcript)
    return Verdict(
        id=item.id,
        kind=item.kind,
        voice=item.voice,
        question=item.question,
        transcript=transcript,
        answer=text,
        right=not error and judge(item, text),
        emotion=emotion,
        asked_emotion=item.emotion,
        pitch=pitch,
        asked_pitch=item.pitch,
        units=len(units),
        complete=not error and bool(text) and bool(units),
        edits=words.edits,
        words=words.reference_tokens,
        seconds=time.perf_counter() - begun,
        error=error,
    )


def run_dialogues(
    assistant: Assistant,
    items: Sequence[DialogueItem],
    judge: Judge,
    log: Path,
    advance: Callable[[], Any] = lambda: None,
) -> list[Verdict]:
    """Ask all ``items``, appending each verdict to ``log``; items that the log already holds are not asked again."""
    done: dict[str, Verdict] = {}
    if log.exists():
        for line in log.read_text(encoding="utf-8").splitlines():
            try:
                verdict = Verdict(**json.loads(line))
            except (json.JSONDecodeError, TypeError):
                continue  # the line that a kill cut short
            done[verdict.id] = verdict
    verdicts = []
    with open(log, "a", encoding="utf-8") as out:
        for item in items:
            if item.id not in done:
                done[item.id] = answer_one(assistant, item, judge)
                out.write(json.dumps(asdict(done[item.id]), ensure_ascii=False) + "\n")
                out.flush()
            verdicts.append(done[item.id])
            advance()
    return verdicts


def _share(flags: Sequence[bool]) -> float | None:
    return 100 * sum(flags) / len(flags) if flags else None


def picture_shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Per cent right for each kind of picture."""
    kinds = sorted({verdict.kind for verdict in verdicts if verdict.kind != "talk"})
    return {kind: _share([v.right for v in verdicts if v.kind == kind]) or 0.0 for kind in kinds}


def dialogue_rows(verdicts: Sequence[Verdict]) -> list[Row]:
    """The table's rows on recognition, answers, labels and form."""
    talk = [verdict for verdict in verdicts if verdict.kind == "talk"]
    pictures = [verdict for verdict in verdicts if verdict.kind != "talk"]
    heard = sum((ErrorRate(v.edits, v.words) for v in verdicts), ErrorRate(0, 0))
    shares = picture_shares(verdicts)
    voices = ", ".join(sorted({verdict.voice for verdict in verdicts}))
    return [
        Row("spoken-instruction word error", 100 * heard.rate, 8, False, "%", len(verdicts), f"held-out: {voices}"),
        Row("picture questions right", _share([v.right for v in pictures]), 85, True, "%", len(pictures), "by voice"),
        Row(
            "picture questions, worst kind",
            min(shares.values(), default=None),
            75,
            True,
            "%",
            len(pictures),
            "each kind in `parts`",
            shares,
        ),
        Row("talk: answer fits the intent", _share([v.right for v in talk]), 90, True, "%", len(talk), "by voice"),
        Row(
            "emotion label",
            _share([v.emotion == v.asked_emotion for v in verdicts]),
            90,
            True,
            "%",
            len(verdicts),
            "against the recipe's",
        ),
        Row(
            "pitch label",
            _share([v.pitch == v.asked_pitch for v in verdicts]),
            90,
            True,
            "%",
            len(verdicts),
            "against the recipe's",
        ),
        Row(
            "reply parses to the schema",
            _share([v.complete for v in verdicts]),
            99.5,
            True,
            "%",
            len(verdicts),
            "with text and units",
        ),
    ]
