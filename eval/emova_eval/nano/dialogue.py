"""Spoken dialogue with emova-nano: each held-out question is asked by voice, the recipe's own judges decide.

Every answer is kept in the run's ``samples.jsonl``; a run that was stopped goes on. A question that the model cannot
answer counts as wrong in every figure. Judgements are made anew from the kept answers whenever figures are drawn.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from emova.speech.style import DEFAULT_STYLES
from emova_eval.judges.voices import Rater
from emova_eval.metrics.compare import confidence_interval
from emova_eval.metrics.text import word_errors
from emova_eval.nano.data import DialogueItem
from emova_eval.report.goals import Row
from emova_eval.suite.runner import part
from emova_eval.suite.samples import Example, Output, Record, Score, pooled
from emova_eval.suite.tasks import Recogniser, hear, rated

if TYPE_CHECKING:
    from emova.assistant import Assistant

Judge = Callable[[DialogueItem, str], bool]
TALK = "talk"


class NanoDialogue:
    """The task. A record's ``group`` is ``talk`` or the kind of picture; its clusters are the spoken questions.

    Args:
        items: what is asked.
        right: whether an answer is right.
        recogniser: hears the replies; None hears none.
        heard: about so many replies of each voice are heard, spread evenly over ``items``; where there are fewer
            questions, one voice has one reply more.
        raters: of how these sound.
    """

    name: ClassVar[str] = "nano-dialogue"
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = True
    interval: ClassVar[bool] = True

    def __init__(
        self,
        items: Sequence[DialogueItem],
        right: Judge,
        recogniser: Recogniser | None = None,
        heard: int = 0,
        raters: Sequence[Rater] = (),
    ) -> None:
        self.items = {item.id: item for item in items}
        self.right = right
        self.recogniser = recogniser
        self.raters = raters
        listened = items[:: max(1, len(items) // (len(DEFAULT_STYLES.voices) * heard))] if heard and recogniser else ()
        self.heard = {
            item.id: DEFAULT_STYLES.voices[number % len(DEFAULT_STYLES.voices)] for number, item in enumerate(listened)
        }
        self.judge = "the recipe's judges" + (f"; heard by {recogniser.name}" if recogniser else "")

    def examples(self) -> Iterable[Example]:
        """All questions."""
        for item in self.items.values():
            yield Example(item.id, item.question, answers=(item.record.get("answer", ""),), group=item.kind)

    def ask(self, model: Assistant, example: Example) -> Output:
        """The reply to the recording; its sound is kept where it will be heard."""
        item = self.items[example.id]
        reply = model.chat(
            audio=item.audio, image=item.image, voice=self.heard.get(item.id, DEFAULT_STYLES.default.gender)
        )
        return Output(
            text=reply.text,
            transcript=reply.transcript,
            emotion=reply.emotion,
            pitch=reply.pitch,
            units=tuple(reply.units),
            audio=reply.audio if item.id in self.heard else None,
            sample_rate=reply.sample_rate,
            form_ok=bool(reply.text.strip() and reply.units) and reply.style_understood,
        )

    def score(self, example: Example, output: Output) -> Score:
        """1 for a right answer, and what else the reply shows."""
        item = self.items[example.id]
        words = word_errors(item.question, output.transcript)
        values = {
            "recognition": (float(words.edits), float(words.reference_tokens)),
            "emotion": (float(output.emotion == item.emotion), 1.0),
            "pitch": (float(output.pitch == item.pitch), 1.0),
            "form": (float(output.form_ok), 1.0),
        }
        notes: dict[str, Any] = {"voice": item.voice, "transcript": output.transcript, "units": len(output.units)}
        notes |= {"emotion": output.emotion, "asked_emotion": item.emotion}
        notes |= {"pitch": output.pitch, "asked_pitch": item.pitch}
        if self.recogniser is not None and item.id in self.heard:
            notes["heard"] = hear(self.recogniser, output)
            spoken = word_errors(output.text, notes["heard"])
            # A reply without words that also says nothing is a failure of the form, and one word wrong here.
            wrong = (float(spoken.edits), float(spoken.reference_tokens)) if output.text else (1.0, 1.0)
            values[f"speech_{self.heard[item.id]}"] = wrong
            ratings, failures = rated(self.raters, output)
            values |= ratings
            notes |= failures
        return Score(float(self.right(item, output.text)), 1.0, values, notes)

    def worst(self, example: Example, failure: str) -> Score:
        """Wrong in every figure."""
        item = self.items[example.id]
        words = float(max(word_errors(item.question, "").edits, 1))
        values = {"recognition": (words, words), "emotion": (0.0, 1.0), "pitch": (0.0, 1.0), "form": (0.0, 1.0)}
        if item.id in self.heard:
            values[f"speech_{self.heard[item.id]}"] = (1.0, 1.0)
            values |= rated(self.raters, Output())[0]
        return Score(0.0, 1.0, values, {"voice": item.voice}, failure)

    def aggregate(self, records: Sequence[Record]) -> float:
        """Per cent right."""
        return pooled(records)

    def cluster(self, record: Record) -> str:
        """One recording may be asked about several pictures; those answers are not independent."""
        return record.question

    def stratum(self, record: Record) -> str:
        """All are drawn together."""
        return ""

    def further(self, records: Sequence[Record]) -> dict[str, float]:
        """None: the table's rows have them."""
        return {}

    def judge_again(self, records: Sequence[Record]) -> list[Record]:
        """The records with today's judgement of the kept answers."""
        return [
            record
            if record.failure
            else dataclasses.replace(record, value=float(self.right(self.items[record.id], record.output)))
            for record in records
        ]


def shares(records: Sequence[Record], group: Callable[[Record], str]) -> dict[str, float]:
    """Per cent right in each group."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(group(record), []).append(record)
    return {name: pooled(found) for name, found in sorted(groups.items())}


def picture_shares(records: Sequence[Record]) -> dict[str, float]:
    """Per cent right for each kind of picture."""
    return shares([record for record in records if record.group != TALK], lambda record: record.group)


def blind_share(items: Iterable[DialogueItem]) -> float | None:
    """Per cent right of one who never looks: to each type of question the answer that is most often right."""
    keys: dict[str, Counter[str]] = {}
    for item in items:
        keys.setdefault(item.record.get("type", ""), Counter())[item.record.get("key", "")] += 1
    total = sum(sum(counts.values()) for counts in keys.values())
    return 100 * sum(max(counts.values()) for counts in keys.values()) / total if total else None


def commonest(labels: Iterable[str]) -> float | None:
    """Per cent right of one who always says the commonest label."""
    counts = Counter(labels)
    return 100 * max(counts.values()) / sum(counts.values()) if counts else None


def _row(
    name: str,
    records: Sequence[Record],
    goal: float,
    note: str,
    higher: bool = True,
    parts: dict[str, float] | None = None,
) -> Row:
    if not records:
        return Row(name, None, goal, higher, "%", 0, note)
    low, high = confidence_interval(records, pooled, lambda record: record.question)
    return Row(name, pooled(records), goal, higher, "%", len(records), note, parts or {}, low, high)


def _per_cent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} %"


def dialogue_rows(records: Sequence[Record], items: Sequence[DialogueItem], kinds: Iterable[str] = ()) -> list[Row]:
    """The table's rows on recognition, answers, labels and form.

    Args:
        records: one for each of ``items``.
        kinds: every kind of picture there should be; those without a question are named.
    """
    talk = [record for record in records if record.group == TALK]
    pictures = [record for record in records if record.group != TALK]
    by_kind = picture_shares(records)
    absent = sorted(set(kinds) - set(by_kind))
    voices = ", ".join(sorted({item.voice for item in items}))
    failed = sum(bool(record.failure) for record in records)
    asked = {item.id: item for item in items}
    held_out = shares(talk, lambda record: asked[record.id].record.get("held_out", ""))
    blind = _per_cent(blind_share(item for item in items if item.kind != TALK))
    emotions = _per_cent(commonest(item.emotion for item in items))
    pitches = _per_cent(commonest(item.pitch for item in items))
    worst = Row("picture questions, worst kind", None, 75, True, "%", 0, "no picture questions")
    if by_kind:
        name = min(by_kind, key=lambda kind: by_kind[kind])
        note = f"{name}" + (f"; no questions on: {', '.join(absent)}" if absent else "")
        found = [record for record in pictures if record.group == name]
        worst = dataclasses.replace(_row(worst.name, found, 75, note), parts=by_kind)
    return [
        _row(
            "spoken-instruction word error", part(records, "recognition"), 8,
            f"unheard voices: {voices}; {failed} questions failed and count as wrong", False,
        ),
        _row(
            "picture questions right", pictures, 85,
            f"asked by voice; the right key and no other; the most frequent key for each question, blindly: {blind}",
        ),
        worst,
        _row(
            "talk: answer fits the intent", talk, 90,
            "asked by voice; a reference answer of the intent, nearly word for word" + "".join(
                f"; new {name or 'question'}: {share:.0f} %" for name, share in held_out.items()
            ),
            parts=held_out,
        ),
        _row("emotion label", part(records, "emotion"), 90, f"the recipe's label; always the commonest: {emotions}"),
        _row("pitch label", part(records, "pitch"), 90, f"the recipe's label; always the commonest: {pitches}"),
        _row("reply parses to the schema", part(records, "form"), 99.5, "with text and units; the form by a grammar"),
        *(
            _row(
                f"spoken reply, word error, {voice}", part(records, f"speech_{voice}"), 12,
                "what is heard of the replies to these questions, against their text", False,
            )
            for voice in DEFAULT_STYLES.voices
        ),
    ]  # fmt: skip
