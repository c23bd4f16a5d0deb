"""Question types of the pictures: their phrasings, the ones held out, and how an answer is judged.

A type has phrasings with one slot at most. The last ``HELD_OUT[type]`` phrasings are asked in the test split only, the
others in the training split only. For types with many slot values each value keeps a few phrasings, chosen by a hash,
so that all the questions can be spoken.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from emova.core.writing import write_text
from emova_data.nano.pictures import vocabulary as v
from emova_data.nano.pictures.vocabulary import PLAIN, Mood


@dataclass(frozen=True)
class QuestionType:
    """Phrasings of one question; the last ``held_out`` are for the test split. ``keep``: phrasings kept a slot value
    (training, held out), or None for all. ``slots``: the values; ``("",)`` when there is no slot. ``keys``: the closed
    set of essential answers, ``answers`` the one sentence for each of them."""

    phrasings: tuple[str, ...]
    answers: Mapping[str, str]
    slots: tuple[str, ...] = ("",)
    held_out: int = 2
    keep: tuple[int, int] | None = None


@dataclass(frozen=True)
class Question:
    """One question about a picture. ``key``: the essential answer word or words; ``correct`` looks for them."""

    question: str
    answer: str
    emotion: str
    pitch: str
    type: str
    key: str

    def record(self) -> dict[str, str]:
        """As written into a shard."""
        return asdict(self)


def _names() -> dict[str, str]:
    return {name: f"This is {v.with_article(name)}." for name in v.OBJECTS}


def _yes_no(sentence: str, keys: tuple[str, ...], no: str | None = None) -> dict[str, str]:
    """Keys are ``yes|value``, since ``yes`` cannot choose a sentence alone; the judge reads what is before the bar."""
    answers = {f"yes|{key}": "Yes, " + sentence.format(key) for key in keys}
    answers |= {f"no|{key}": "No, " + (no or sentence).format(key) for key in keys}
    return answers


_OBJECT_PHRASES = tuple(v.with_article(name) for name in v.OBJECTS)
_COLOURED_SHAPES = tuple(f"{colour} {shape}" for colour in v.COLOURS for shape in v.SHAPES)
_LABELS = tuple(word for labels in v.BAR_LABELS.values() for word in labels)
_PAIRS = tuple(f"{a} higher than {b}" for a, b in v.NEXT_LABEL.items())


def _verb(label: str) -> str:
    return "Is" if label.split()[0] in v.BAR_LABELS["days"] else "Are"


TYPES: dict[str, QuestionType] = {
    # every kind
    "kind": QuestionType(
        ("What kind of picture is this?", "What kind of image is it?", "What type of picture is this?",
         "What sort of picture do you see?", "Tell me what kind of picture this is.",
         "What type of image am I showing you?",
         "What sort of picture is this?", "What kind of image is this?"),
        {name: f"This is a {name}." for name in v.KIND_NAMES.values()},
    ),
    # objects
    "name": QuestionType(
        ("What is this?", "What do you see?", "What is in the picture?", "What can you see here?",
         "What does the picture show?",
         "Can you tell me what this is?", "Name the thing in the picture.", "What is shown here?",
         "What can you see in the picture?", "Tell me what this is."),
        _names(),
    ),
    "is_it": QuestionType(
        ("Is this {}?", "Is it {}?", "Do you see {}?", "Is that {}?", "Does the picture show {}?",
         "Do you think this is {}?",
         "Can you see {}?", "Is this a picture of {}?"),
        {f"yes|{n}": f"Yes, this is {v.with_article(n)}." for n in v.OBJECTS}
        | {f"no|{n}": f"No, this is {v.with_article(n)}." for n in v.OBJECTS},
        _OBJECT_PHRASES, keep=(3, 1),
    ),
    # scenes
    "count": QuestionType(
        ("How many shapes are there?", "How many shapes do you see?", "How many shapes are in the picture?",
         "Count the shapes.", "Can you count the shapes?", "What is the number of shapes?",
         "How many shapes can you see?", "How many shapes are shown?"),
        {v.NUMBERS[n]: f"There {'is' if n == 1 else 'are'} {v.NUMBERS[n]} {v.plural('shape', n)}."
         for n in range(1, 6)},
    ),
    "count_shape": QuestionType(
        ("How many {}s are there?", "How many {}s do you see?", "How many {}s are in the picture?", "Count the {}s.",
         "Can you count the {}s?", "What is the number of {}s?", "How many {}s can you see?",
         "How many {}s are shown?"),
        {f"{v.NUMBERS[n]}|{s}": f"There {'is' if n == 1 else 'are'} {v.NUMBERS[n]} {v.plural(s, n)}."
         for s in v.SHAPES for n in range(6)},
        v.SHAPES,
    ),
    "colour": QuestionType(
        ("What colour is the {}?", "What is the colour of the {}?", "Which colour is the {}?",
         "Which colour does the {} have?",
         "Tell me the colour of the {}.", "What colour do you see on the {}?", "What colour does the {} have?",
         "Can you tell me the colour of the {}?"),
        {c: f"It is {c}." for c in v.COLOURS}, v.SHAPES,
    ),
    "shape": QuestionType(
        ("Which shape is {}?", "What shape is {}?", "What is the {} shape?", "Which shape do you see in {}?",
         "Tell me which shape is {}.", "What is {} in the picture?", "Can you tell me which shape is {}?"),
        {s: f"It is a {s}." for s in v.SHAPES}, tuple(v.COLOURS), held_out=1,
    ),
    "where": QuestionType(
        ("Where is the {}?", "Where do you see the {}?", "Where can I find the {}?", "In which place is the {}?",
         "Tell me where the {} is.", "Where in the picture is the {}?", "Where can you see the {}?",
         "Can you tell me where the {} is?"),
        {p: f"It is {'in' if p == 'middle' else 'at'} the {p}." for p in v.PLACES}, _COLOURED_SHAPES, keep=(3, 1),
    ),
    "at_place": QuestionType(
        ("What is {}?", "What do you see {}?", "Which shape is {}?", "What can you see {}?", "Tell me what is {}.",
         "What is the shape {}?", "Which shape do you see {}?", "Can you tell me what is {}?"),
        {key: f"It is {v.with_article(key)}." for key in _COLOURED_SHAPES},
        tuple(f"{'in' if p == 'middle' else 'at'} the {p}" for p in v.PLACES),
    ),
    "left_of": QuestionType(
        ("What is left of the {}?", "What is to the left of the {}?", "What do you see left of the {}?",
         "Which shape is left of the {}?", "Tell me what is left of the {}.", "What can you see to the left of the {}?",
         "Which shape is to the left of the {}?"),
        {key: f"It is {v.with_article(key)}." for key in _COLOURED_SHAPES}, v.SHAPES, held_out=1,
    ),
    "right_of": QuestionType(
        ("What is right of the {}?", "What is to the right of the {}?", "What do you see right of the {}?",
         "Which shape is right of the {}?", "Tell me what is right of the {}.",
         "What can you see to the right of the {}?",
         "Which shape is to the right of the {}?"),
        {key: f"It is {v.with_article(key)}." for key in _COLOURED_SHAPES}, v.SHAPES, held_out=1,
    ),
    "is_there": QuestionType(
        ("Is there a {}?", "Is there a {} in the picture?", "Do you see a {}?", "Does the picture have a {}?",
         "Can you find a {}?", "Is a {} shown here?", "Can you see a {}?"),
        {f"yes|{s}": f"Yes, there is {v.with_article(s)}." for s in (*v.SHAPES, *(f"{c} shape" for c in v.COLOURS))}
        | {f"no|{s}": f"No, there is no {s}." for s in (*v.SHAPES, *(f"{c} shape" for c in v.COLOURS))},
        (*v.SHAPES, *(f"{c} shape" for c in v.COLOURS)), held_out=1,
    ),
    # charts
    "highest": QuestionType(
        ("Which bar is the highest?", "What is the highest bar?", "Which one is the highest?",
         "Which bar is the longest?",
         "What has the highest value?", "Tell me the highest bar.", "Which one has the highest value?",
         "Can you tell me the highest bar?"),
        {label: f"The highest bar is {label}." for label in _LABELS},
    ),
    "lowest": QuestionType(
        ("Which bar is the lowest?", "What is the lowest bar?", "Which one is the lowest?",
         "Which bar is the shortest?",
         "What has the lowest value?", "Tell me the lowest bar.", "Which one has the lowest value?",
         "Can you tell me the lowest bar?"),
        {label: f"The lowest bar is {label}." for label in _LABELS},
    ),
    "bars": QuestionType(
        ("How many bars are there?", "How many bars do you see?", "How many bars does the chart have?",
         "Count the bars.",
         "Can you count the bars?", "What is the number of bars?", "How many bars can you see?",
         "How many bars are shown?"),
        {v.NUMBERS[n]: f"There are {v.NUMBERS[n]} bars." for n in (2, 3, 4)},
    ),
    "value": QuestionType(
        ("What is the value for {}?", "What value do you see for {}?", "What number is on the bar for {}?",
         "What does the bar for {} show?", "Tell me the value for {}.", "What number do you see for {}?",
         "Can you tell me the value for {}?"),
        {v.NUMBERS[n]: f"The value is {v.NUMBERS[n]}." for n in range(1, v.TOP_BAR + 1)}, _LABELS, held_out=1,
         keep=(5, 1),
    ),
    "compare": QuestionType(
        ("{verb} {}?", "{verb} the bar for {}?", "Do you think that {}?", "Can you see that {}?",
         "Does the chart show that {}?",
         "In this chart, {lower_verb} {}?", "In the chart, {lower_verb} {}?"),
        {"yes": "Yes, it is higher.", "no": "No, it is lower."}, _PAIRS, held_out=1,
    ),
    # tables
    "score": QuestionType(
        ("What is the score of {}?", "How many points does {} have?", "What score does {} have?",
         "How many points are there for {}?",
         "Tell me the score of {}.", "What number is next to {}?", "What is the number of points for {}?",
         "Can you tell me the score of {}?"),
        {v.NUMBERS[n]: f"The score is {v.NUMBERS[n]}." for n in range(1, v.TOP_SCORE + 1)}, v.NAMES,
    ),
    "most": QuestionType(
        ("Who has the most points?", "Who has the highest score?", "Who is the best in the table?",
         "Which name has the most points?",
         "Tell me who has the most points.", "Who wins?", "Which name has the highest score?", "Who has the most?"),
        {name: f"{name} has the most points." for name in v.NAMES},
    ),
    "fewest": QuestionType(
        ("Who has the fewest points?", "Who has the lowest score?", "Who is the last in the table?",
         "Which name has the fewest points?", "Tell me who has the fewest points.", "Who loses?",
         "Which name has the lowest score?", "Who has the fewest?"),
        {name: f"{name} has the fewest points." for name in v.NAMES},
    ),
    "names": QuestionType(
        ("How many names are there?", "How many names do you see?", "How many names are in the table?",
         "Count the names.",
         "Can you count the names?", "What is the number of names?", "How many names can you see?",
         "How many names are shown?"),
        {v.NUMBERS[n]: f"There are {v.NUMBERS[n]} names." for n in (2, 3, 4)},
    ),
    # price tags
    "price": QuestionType(
        ("How much is it?", "What does it cost?", "How much does it cost?", "What is the price?", "Tell me the price.",
         "What price do you see?", "What is the price on the tag?", "Can you tell me the price?"),
        {v.price_words(p): f"It costs {v.price_words(p)}." for p in v.PRICES},
    ),
    "price_of": QuestionType(
        ("How much {is} the {}?", "What {does} the {} cost?", "How much {does} the {} cost?",
         "What is the price of the {}?",
         "Tell me the price of the {}.", "Can you tell me the price of the {}?"),
        {v.price_words(p): f"It costs {v.price_words(p)}." for p in v.PRICES}, v.PRODUCTS, held_out=1,
    ),
    "product": QuestionType(
        ("What is the tag for?", "What product is it?", "What product is on the tag?", "What can I buy here?",
         "What is for sale?",
         "Tell me the product on the tag.", "Which product is it?", "Which product is on the tag?"),
        {name: f"The tag is for {name}." for name in v.PRODUCTS},
    ),
    "more_than": QuestionType(
        ("Is it more than {}?", "Does it cost more than {}?", "Is the price more than {}?", "Do I pay more than {}?",
         "Is the price higher than {}?", "Must I pay more than {}?", "Does it cost me more than {}?"),
        {"yes": "Yes, it costs more.", "no": "No, it costs less."},
        tuple(v.price_words(p) for p in v.THRESHOLDS), held_out=1,
    ),
    # signs
    "says": QuestionType(
        ("What does the sign say?", "What is written on the sign?", "Read the sign.", "What word is on the sign?",
         "Can you read the sign?", "Tell me what the sign says.", "What do you read on the sign?",
         "Tell me what is written on the sign."),
        {word: f"The sign says {word}." for word in v.SIGNS},
    ),
    "sign_colour": QuestionType(
        ("What colour is the sign?", "What is the colour of the sign?", "Which colour is the sign?",
         "Which colour does the sign have?", "Tell me the colour of the sign.", "What colour do you see on the sign?",
         "What colour does the sign have?", "Can you tell me the colour of the sign?"),
        {c: f"The sign is {c}." for c in v.SIGN_COLOURS},
    ),
    "does_it_say": QuestionType(
        ("Does the sign say {}?", "Does it say {}?", "Is {} written on the sign?", "Is the word on the sign {}?",
         "Do you read {} on the sign?", "Is it a sign that says {}?", "Can you read {} on the sign?"),
        {f"yes|{w}": f"Yes, it says {w}." for w in v.SIGNS} | {f"no|{w}": f"No, it says {w}." for w in v.SIGNS},
        v.SIGNS, held_out=1, keep=(4, 1),
    ),
    # posters
    "event": QuestionType(
        ("What is the poster about?", "What event is it?", "What event is on the poster?", "What does the poster say?",
         "What is happening?", "Tell me the event on the poster.", "Which event is on the poster?",
         "What event is the poster about?"),
        {e: f"The poster is about {v.with_article(e)}." for e in v.EVENTS},
    ),
    "day": QuestionType(
        ("Which day is it?", "What day is it on?", "On which day is it?", "When is it?", "When is the event?",
         "What day is on the poster?", "Which day is on the poster?", "On what day is the event?"),
        {d: f"It is on {d}." for d in v.DAYS},
    ),
    "venue": QuestionType(
        ("Where is it?", "Where is the event?", "In which place is the event?", "Where does it take place?",
         "Where do I have to go?",
         "What place is on the poster?", "Where does the event take place?", "Which place is on the poster?"),
        {p: f"It is at the {p}." for p in v.VENUES},
    ),
    "is_day": QuestionType(
        ("Is it on {}?", "Is the event on {}?", "Does the poster say {}?", "Does it take place on {}?",
         "Is the day {}?",
         "Do you read {} on the poster?", "Does the event take place on {}?"),
        _yes_no("it is on {}.", v.DAYS), v.DAYS, held_out=1,
    ),
    # faces and weather
    "feeling": QuestionType(
        ("How does the face feel?", "How does the face look?", "What feeling does the face show?",
         "How is this face feeling?",
         "What is the feeling of the face?", "Tell me how the face feels.", "Tell me how this face looks.",
         "What feeling do you see on the face?"),
        {f: f"The face looks {f}." for f in v.FACES},
    ),
    "is_feeling": QuestionType(
        ("Is the face {}?", "Does the face look {}?", "Is this face {}?", "Does the face feel {}?",
         "Do you think the face is {}?",
         "Is that face {}?", "Does this face look {}?"),
        _yes_no("it looks {}.", v.FACES), v.FACES, held_out=1,
    ),
    "weather": QuestionType(
        ("What is the weather like?", "How is the weather?", "What weather do you see?", "What weather is it?",
         "Tell me about the weather.", "What weather does the picture show?", "Tell me what the weather is like.",
         "How is the weather in the picture?"),
        {w: f"It is {w}." for w in v.WEATHERS},
    ),
    "is_weather": QuestionType(
        ("Is it {}?", "Is the weather {}?", "Do you see {} weather?", "Does the weather look {}?",
         "Is it {} in the picture?",
         "Does the picture show {} weather?", "Is the weather in the picture {}?"),
        _yes_no("it is {}.", v.WEATHERS), v.WEATHERS, held_out=1,
    ),
}  # fmt: skip


def _fill(phrasing: str, slot: str) -> str:
    plural = slot in v.PLURAL_PRODUCTS
    verb = "is" if slot.split(" ")[0] in v.BAR_LABELS["days"] else "are"
    if "the bar for" in phrasing:
        verb = "is"
    text = phrasing.replace("{verb}", verb.capitalize()).replace("{lower_verb}", verb)
    text = text.replace("{is}", "are" if plural else "is").replace("{does}", "do" if plural else "does")
    if "{verb}" not in phrasing and "{lower_verb}" not in phrasing and " higher than " in slot:
        # "Do you think apples are higher than pears"
        slot = slot.replace(" higher than ", f" {verb} higher than ", 1)
    return text.replace("{}", slot)


def phrasings(kind: str, slot: str, split: str) -> list[str]:
    """All questions of a type for one slot value in ``train`` or ``test``."""
    spec = TYPES[kind]
    cut = len(spec.phrasings) - spec.held_out
    pool = list(spec.phrasings[:cut] if split == "train" else spec.phrasings[cut:])
    if spec.keep is not None:
        count = spec.keep[0 if split == "train" else 1]
        pool.sort(key=lambda p: hashlib.sha256(f"{kind}|{slot}|{p}".encode()).digest())
        pool = pool[:count]
    return [_fill(p, slot) for p in pool]


def answer(kind: str, key: str) -> str:
    """The one sentence that answers a type with a key."""
    return TYPES[kind].answers[key]


def make_question(kind: str, key: str, slot: str, mood: Mood, split: str, pick: float) -> Question:
    """``pick`` in [0, 1) chooses the phrasing. The key may be ``yes|detail``; the record keeps ``yes``."""
    choices = phrasings(kind, slot, split)
    text = choices[int(pick * len(choices))]
    if kind == "kind":
        mood = PLAIN
    return Question(text, answer(kind, key), mood[0], mood[1], kind, key.split("|")[0])


def all_questions() -> Iterator[tuple[str, str]]:
    """Every (question, split) that can be asked, each text once; a text of the training split is never in the test."""
    seen: set[str] = set()
    for split in ("train", "test"):
        for kind, spec in TYPES.items():
            for slot in spec.slots:
                for text in phrasings(kind, slot, split):
                    if text not in seen:
                        seen.add(text)
                        yield text, split


def all_answers() -> list[str]:
    """Every answer sentence once, in a fixed order."""
    return list(dict.fromkeys(text for spec in TYPES.values() for text in spec.answers.values()))


def _words(text: str) -> str:
    return " " + " ".join(re.findall(r"[a-z]+", text.lower())) + " "


_DIGITS = {str(i): word for i, word in enumerate(v.NUMBERS)}


def correct(question: Mapping[str, str], answer_text: str) -> bool:
    """Whether an answer holds the question's key and no other key of its type.

    Args:
        question: a record with ``type`` and ``key``.
        answer_text: the model's answer in any wording; case, punctuation and digits do not matter.
    """
    spec = TYPES[question["type"]]
    text = _words(re.sub(r"\d+", lambda m: _DIGITS.get(m.group(), m.group()), answer_text))
    found: set[str] = set()
    # Longest first, and what was found is taken out: "no entry" is not also "no".
    keys = {key.split("|")[0] for key in spec.answers}
    if keys == {"yes", "no"}:  # the first word decides: "Yes, it says no entry."
        return text.split()[:1] == [question["key"]]
    for key in sorted(keys, key=lambda k: (-len(k), k)):
        phrase = _words(key)
        if phrase in text:
            found.add(key)
            text = text.replace(phrase, " ")
    return found == {question["key"]}


def write_texts(folder: Path) -> tuple[int, int]:
    """Write ``picture_questions.jsonl`` {id, text, split}, ``picture_answers.jsonl`` {text}; returns their counts."""
    folder.mkdir(parents=True, exist_ok=True)
    asked, told = list(all_questions()), all_answers()
    rows = [{"id": f"pq{i:05d}", "text": text, "split": split} for i, (text, split) in enumerate(asked)]
    _write_lines(folder / "picture_questions.jsonl", rows)
    _write_lines(folder / "picture_answers.jsonl", [{"text": text} for text in told])
    return len(asked), len(told)


def _write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
