"""What is spoken by whom: the plans of the speech sets ``s2u``, ``style``, ``parallel``, ``tts``, ``answer`` and
``question``.

A plan is a list of items and depends on the texts and the seed alone. Every random choice is drawn from a generator
named by the seed and the item, so that adding a text does not change what is made for the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Required, TypedDict

import numpy as np

from emova.core.errors import InputError
from emova.core.seeding import generator
from emova_data.nano.speech.shard_maker import Item
from emova_data.nano.voices.styles import NANO_STYLES
from emova_data.nano.voices.voices import FLITE_VOICES, KOKORO_ALL, KOKORO_VOICES, PSEUDO_VOICES

SPEECH_RATE = 16000
STYLE_RATE = 24000
_PSEUDO = tuple(f"hibari/p{index:02d}" for index in range(PSEUDO_VOICES))
_FLITE = tuple(f"flite/{name}" for name in FLITE_VOICES)
_KOKORO = tuple(f"kokoro/{name}" for name in KOKORO_VOICES)
_CANONICAL = ("hibari/female", "hibari/male")
_FESTIVAL = ("festival/kal_diphone", "festival/ked_diphone", "festival/cmu_us_slt_arctic_hts")
_ALL_STYLES = tuple((emotion, pitch) for emotion in NANO_STYLES.emotions for pitch in NANO_STYLES.pitches)
_NEUTRAL = ("neutral", "normal")


@dataclass(frozen=True)
class SpeechPlan:
    """Amounts of the speech sets.

    Args:
        s2u_sentences: sentences spoken once each in a voice drawn at random (at most all).
        s2u_kokoro: further renderings by Kokoro, the slowest voice.
        style_sentences: texts of the style set, each spoken by both canonical voices.
        style_extra: styles of each beside neutral-normal.
        style_test: test texts, each in all 24 styles.
        question_voices: voices that ask each training question.
        question_kokoro: training questions that Kokoro asks too, by its voices and by voices between two of them.
        question_test: (piper, festival, training-voice) renderings of held-out questions.
        answers: at most so many answers.
        tts: sentences, and as far as they do not suffice questions, that the canonical voice reads aloud.
        parallel_texts: sentences and training questions that the canonical voice and others say.
        parallel_voices: other voices that say each of them.
    """

    s2u_sentences: int = 6000
    s2u_kokoro: int = 400
    style_sentences: int = 800
    style_extra: int = 2
    style_test: int = 30
    question_voices: int = 2
    question_kokoro: int = 1200
    question_test: tuple[int, int, int] = (340, 115, 345)
    answers: int = 20000
    tts: int = 12000
    parallel_texts: int = 3000
    parallel_voices: int = 4


class TextRow(TypedDict, total=False):
    """A line of ``text/*.jsonl``: a sentence or a picture's text has ``text``, small talk a question and answer."""

    id: Required[str]
    split: Required[str]
    text: str
    question: str
    answer: str
    user_emotion: str
    user_pitch: str


def read_lines(path: Path) -> list[TextRow]:
    """The records of a JSON Lines file. Raises: InputError: it is missing."""
    if not path.is_file():
        raise InputError(f"{path}: missing; run `emova data make nano --only text` first")
    with path.open(encoding="utf-8") as handle:
        return [json.loads(line) for line in handle if line.strip()]


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _sample(texts: Sequence[str], count: int, *name: object) -> list[str]:
    order = generator(*name).permutation(len(texts))[:count]
    return [texts[int(index)] for index in order]


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))


def _s2u_item(text: str, number: int, split: str, seed: int) -> Item:
    """A random voice, and for hibari's a random style, so that units do not depend on either."""
    rng = generator("s2u", seed, split, text)
    draw = rng.random()
    voice = _pick(rng, _PSEUDO if draw < 0.68 else _CANONICAL if draw < 0.78 else _FLITE)
    emotion, pitch = _NEUTRAL
    if voice.startswith("hibari") and rng.random() < 0.6:
        emotion, pitch = _ALL_STYLES[int(rng.integers(len(_ALL_STYLES)))]
    return Item(f"s2u_{split}_{number:06d}", text, voice, "s2u", split, SPEECH_RATE, emotion, pitch, seed)


def plan_s2u(sentences: Sequence[TextRow], plan: SpeechPlan, seed: int) -> list[Item]:
    """Training set of the speech tokenizer: most items by rule-made voices, flite and the canonical two."""
    train = _unique(row["text"] for row in sentences if row["split"] == "train")[: plan.s2u_sentences]
    return [_s2u_item(text, number, "train", seed) for number, text in enumerate(train)]


def plan_s2u_kokoro(sentences: Sequence[TextRow], plan: SpeechPlan, seed: int) -> list[Item]:
    """Kokoro's part of the training set, kept apart (``s2u_kokoro``) since it takes most of the time."""
    train = _sample(_unique(r["text"] for r in sentences if r["split"] == "train"), plan.s2u_kokoro, "s2u-kokoro", seed)
    return [
        Item(f"s2u_kokoro_{number:06d}", text, _KOKORO[number % len(_KOKORO)], "s2u_kokoro", "train", SPEECH_RATE,
             seed=seed)
        for number, text in enumerate(train)
    ]  # fmt: skip


def plan_s2u_test(sentences: Sequence[TextRow], plan: SpeechPlan, seed: int) -> list[Item]:
    """Held-out sentences: a third each in training voices, piper and festival."""
    test = _unique(row["text"] for row in sentences if row["split"] == "test")[:240]
    items = []
    for number, text in enumerate(test):
        item = _s2u_item(text, number, "test", seed)
        if number % 3:
            voice = "piper/joe" if number % 3 == 1 else _FESTIVAL[number // 3 % len(_FESTIVAL)]
            item = Item(item.key, text, voice, "s2u", "test", SPEECH_RATE, seed=seed)
        items.append(item)
    return items


def plan_style(texts: Sequence[str], plan: SpeechPlan, seed: int) -> list[Item]:
    """The 24 styles for the detokenizer: each text in neutral-normal and a few other styles, by both voices."""
    others = [style for style in _ALL_STYLES if style != _NEUTRAL]
    chosen = _sample(texts, plan.style_sentences, "style", seed)
    items = []
    for number, text in enumerate(chosen):
        for voice in _CANONICAL:
            # A running offset beside the random order covers all styles equally often.
            order = generator("style", seed, voice, number // len(others)).permutation(len(others))
            start = number * plan.style_extra
            extra = [others[int(order[(start + step) % len(others)])] for step in range(plan.style_extra)]
            for emotion, pitch in (_NEUTRAL, *extra):
                key = f"style_{number:05d}_{voice.split('/')[1]}_{emotion}_{pitch}"
                items.append(Item(key, text, voice, "style", "train", STYLE_RATE, emotion, pitch, seed))
    return items


def plan_style_test(texts: Sequence[str], plan: SpeechPlan, seed: int) -> list[Item]:
    """Held-out texts, each in all 24 styles."""
    return [
        Item(f"style_test_{number:05d}_{voice.split('/')[1]}_{emotion}_{pitch}", text, voice, "style", "test",
             STYLE_RATE, emotion, pitch, seed)
        for number, text in enumerate(_sample(texts, plan.style_test, "style-test", seed))
        for voice in _CANONICAL
        for emotion, pitch in _ALL_STYLES
    ]  # fmt: skip


def plan_parallel(texts: Sequence[str], plan: SpeechPlan, seed: int) -> list[Item]:
    """The same texts by the canonical female voice and by others, three quarters of them flite's: what others' units
    say is known from hers."""
    items = []
    for number, text in enumerate(_sample(texts, plan.parallel_texts, "parallel", seed)):
        rng = generator("parallel", seed, text)
        by_rule = rng.permutation(len(_PSEUDO))[: plan.parallel_voices]
        flite = rng.permutation(len(_FLITE))
        count = min(round(0.75 * plan.parallel_voices), len(_FLITE))
        others = [_FLITE[int(i)] for i in flite[:count]] + [_PSEUDO[int(i)] for i in by_rule]
        for take, voice in enumerate((_CANONICAL[0], *others[: plan.parallel_voices])):
            items.append(
                Item(f"parallel_{number:05d}_{take}", text, voice, "parallel", "train", SPEECH_RATE, seed=seed)
            )
    return items


def plan_tts(texts: Sequence[str], plan: SpeechPlan, seed: int) -> list[Item]:
    """The first texts in the canonical female voice."""
    return [
        Item(f"tts_{number:06d}", text, _CANONICAL[0], "tts", "train", SPEECH_RATE, seed=seed)
        for number, text in enumerate(_unique(texts)[: plan.tts])
    ]


def plan_answers(rows: Iterable[tuple[str, str]], plan: SpeechPlan, seed: int) -> list[Item]:
    """Every distinct answer once in the canonical female voice. ``rows``: (id, answer)."""
    ids = _ids(rows)
    return [
        Item(f"answer_{number:06d}", text, "hibari/female", "answer", "train", SPEECH_RATE, seed=seed,
             ids=tuple(ids[text]))
        for number, text in enumerate(list(ids)[: plan.answers])
    ]  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question to be spoken."""

    id: str
    text: str
    split: str
    emotion: str = "neutral"
    pitch: str = "normal"


def _ids(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = {}
    for identifier, text in rows:
        ids.setdefault(text.strip(), []).append(identifier)
    ids.pop("", None)
    return ids


def plan_questions(questions: Sequence[Question], plan: SpeechPlan, seed: int) -> list[Item]:
    """Every distinct training question in a few training voices; a user's emotion is rendered where one is given."""
    train = [q for q in questions if q.split == "train"]
    ids = _ids((q.id, q.text) for q in train)
    styles = {q.text.strip(): (q.emotion, q.pitch) for q in train}
    takes: list[list[Item]] = [[] for _ in range(plan.question_voices)]
    for number, text in enumerate(ids):
        rng = generator("question", seed, text)
        emotion, pitch = styles[text]
        voices: list[str] = []
        while len(voices) < plan.question_voices:
            by_rule = (emotion, pitch) != _NEUTRAL or rng.random() < 0.85
            voice = _pick(rng, (*_PSEUDO, *_CANONICAL) if by_rule else _FLITE)
            if voice not in voices:
                voices.append(voice)
        for take, voice in enumerate(voices):
            how = (emotion, pitch) if voice.startswith("hibari") else _NEUTRAL
            key = f"question_{number:06d}_{take}"
            takes[take].append(Item(key, text, voice, "question", "train", SPEECH_RATE, *how, seed, tuple(ids[text])))
    # All first takes come before all second ones, so that the first shards already hold every question.
    return [item for take in takes for item in take]


def plan_questions_kokoro(questions: Sequence[Question], plan: SpeechPlan, seed: int) -> list[Item]:
    """Some training questions in natural voices, half of them between two of a gender, so that few voices are many."""
    ids = _ids((q.id, q.text) for q in questions if q.split == "train")
    items = []
    for number, text in enumerate(_sample(list(ids), plan.question_kokoro, "question-kokoro", seed)):
        rng = generator("question-kokoro", seed, text)
        voice = _pick(rng, KOKORO_ALL)
        if rng.random() < 0.5:
            voice += "+" + _pick(rng, [other for other in KOKORO_ALL if other != voice and other[1] == voice[1]])
        key = f"question_kokoro_{number:06d}"
        items.append(
            Item(key, text, f"kokoro/{voice}", "question_kokoro", "train", SPEECH_RATE, seed=seed, ids=tuple(ids[text]))
        )
    return items


def plan_questions_test(questions: Sequence[Question], plan: SpeechPlan, seed: int) -> list[Item]:
    """Held-out questions in the held-out families, and others in training voices to compare with."""
    known = {q.text.strip() for q in questions if q.split == "train"}
    test = [q for q in questions if q.split == "test" and q.text.strip() not in known]
    ids = _ids((q.id, q.text) for q in test)
    piper, festival, train_voices = plan.question_test
    texts = _sample(list(ids), piper + festival + train_voices, "question-test", seed)
    items = []
    for number, text in enumerate(texts):
        rng = generator("question-test", seed, text)
        # Dealt in turn, so that a shortage of texts is shared by all three.
        if number % 7 < 3 and piper > 0:
            voice, piper = "piper/joe", piper - 1
        elif number % 7 == 3 and festival > 0:
            voice, festival = _pick(rng, _FESTIVAL), festival - 1
        elif train_voices > 0:
            voice, train_voices = _pick(rng, (*_PSEUDO, *_FLITE)), train_voices - 1
        elif piper > 0:
            voice, piper = "piper/joe", piper - 1
        else:
            voice, festival = _pick(rng, _FESTIVAL), festival - 1
        key = f"question_test_{number:06d}"
        items.append(Item(key, text, voice, "question", "test", SPEECH_RATE, seed=seed, ids=tuple(ids[text])))
    return items
