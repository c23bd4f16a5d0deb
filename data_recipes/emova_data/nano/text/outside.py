"""Questions outside emova-nano's world, and friendly ways to say so.

A model that has only ever met questions with answers answers everything, and wrongly. These exchanges teach where its
world ends: knowledge, arithmetic, the day's news, work to be done elsewhere. Whatever the talk answers (colours, sounds
of animals, feelings ...) is not asked here.

Writes ``outside.jsonl`` in the form of ``talk.jsonl``. The training's questions are patterns with words put in; the
test's are written out by hand, of other subjects and in other words (``outside_test.txt``).
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator
from pathlib import Path

from emova_data.nano.text.sentence_words import WORDS
from emova_data.nano.text.spoken_text import words

INTENT = "outside"
ANSWERS: tuple[tuple[str, str, str], ...] = (
    ("I am a small helper and I do not know that, sorry.", "sad", "normal"),
    ("That is beyond me, but I am happy to chat!", "happy", "normal"),
    ("Sorry, I have not learned that yet.", "sad", "normal"),
    ("I do not know that one. Ask me something else!", "happy", "normal"),
    ("I can not tell you that, I know only small things.", "neutral", "normal"),
    ("That is too hard for me, I am afraid.", "sad", "normal"),
    ("I am not sure, and I do not want to guess.", "neutral", "normal"),
    ("I have no idea, but it is a good question!", "happy", "high"),
)
_OWN = {answer for answer, _, _ in ANSWERS}
_DECLINES = re.compile(
    r"\b(?:(?:(?:do|did|ca|could|have) ?n[o']t|can ?not) "
    r"(?:know|tell|say|help|look (?:that|it|this) up|learn\w*|want to guess)|not (?:know|learned|sure)|"
    r"beyond me|no idea|too hard for me)\b",
    re.I,
)

_SLOTS: dict[str, tuple[str, ...]] = {
    "country": WORDS["country"],
    "person": ("Napoleon", "Mozart", "Einstein", "Shakespeare", "Cleopatra", "Darwin", "Newton", "Picasso", "Gandhi",
               "Galileo", "Beethoven", "Marie Curie", "Julius Caesar", "Abraham Lincoln", "Van Gogh"),
    "work": ("Hamlet", "Moby Dick", "the Odyssey", "Faust", "the Mona Lisa", "Don Quixote", "Dracula",
             "War and Peace", "Robinson Crusoe", "the Iliad", "Swan Lake"),
    "thing": ("the telephone", "the wheel", "paper", "the steam engine", "the piano", "the bicycle", "the radar",
              "the compass", "penicillin", "the airplane", "the printing press", "dynamite", "the zipper"),
    "science": ("photosynthesis", "gravity", "a black hole", "inflation", "an electron", "the ozone layer", "a vaccine",
                "relativity", "plate tectonics", "a virus", "magnetism", "evolution", "an algorithm", "osmosis"),
    "job": ("write an essay about", "write a letter about", "write a program for", "give a lecture on",
            "do my homework about", "write a report on"),
    "topic": ("whales", "the Roman Empire", "taxes", "climate change", "volcanoes", "the stock market", "computers",
              "the moon landing", "medicine", "Greek history", "electric cars", "bees and flowers"),
    "place": ("the supermarket", "the nearest station", "the post office", "the doctor", "the embassy", "the airport",
              "the bank on my street", "the pharmacy"),
    "match": ("the football game", "the tennis final", "the election", "the race", "the world cup", "the lottery"),
    "stock": ("gold", "oil", "this house", "a bitcoin", "a new car", "the rent in London", "a flight to Rome"),
    "language": ("Spanish", "French", "Japanese", "Latin", "Russian", "Greek", "Arabic", "Swedish"),
    "phrase": ("good morning", "where is the station", "I love you", "how much is it", "the cat sleeps", "thank you"),
    "number": WORDS["number"],
    "big": ("seventeen", "forty-three", "ninety-one", "one hundred twelve", "six hundred", "twenty-nine"),
}  # fmt: skip
_PATTERNS = (
    "How big is {country}?", "How many people live in {country}?", "Who is the president of {country}?",
    "Which river runs through {country}?", "When was {person} born?", "How did {person} die?", "Who was {person}?",
    "Tell me about {person}.", "Who wrote {work}?", "Who made {work}?", "What happens at the end of {work}?",
    "Who invented {thing}?", "When was {thing} invented?", "How is {thing} made?", "What is {science}?",
    "Explain {science} to me.", "How does {science} work?", "Please {job} {topic}.", "Can you {job} {topic}?",
    "Why is {topic} important?", "When does {place} open?", "Call {place} for me.", "How far is it to {place}?",
    "Who won {match} yesterday?", "Who will win {match}?", "What was the score of {match}?",
    "How much does {stock} cost today?", "What is the price of {stock}?", "How do you say {phrase} in {language}?",
    "Translate {phrase} into {language}.", "What is {big} times {number}?", "What is {number} plus {big}?",
    "How much is {big} minus {number}?", "Divide {big} by {number}.", "What is the square root of {big}?",
    "What is on the news about {topic}?", "Book me a flight to {country}.", "Send {person} an email.",
    "Open my file about {topic}.", "Play the song about {topic}.", "What did {person} discover?",
    "Which war was fought in {country}?", "What money do they use in {country}?", "Is it raining in {country} now?",
)  # fmt: skip


def declines(answer: str) -> bool:
    """Whether an answer says that it does not know, in the recipe's words or others'."""
    return " ".join(words(answer)) in {" ".join(words(own)) for own in _OWN} or bool(_DECLINES.search(answer))


def test_questions() -> list[str]:
    """The test's questions, written by hand."""
    path = Path(__file__).with_name("outside_test.txt")
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def _training(rng: random.Random, each: int) -> Iterator[str]:
    for pattern in _PATTERNS:
        names = re.findall(r"\{(\w+)\}", pattern)
        ways = list(itertools.product(*(_SLOTS[name] for name in names)))
        for way in rng.sample(ways, min(each, len(ways))):
            text = pattern
            for name, word in zip(names, way, strict=True):
                text = text.replace(f"{{{name}}}", word, 1)
            yield text


def build(seed: int = 0, each: int = 14) -> list[dict[str, object]]:
    """The exchanges: up to ``each`` of a pattern for the training, and the test's."""
    rng = random.Random(f"outside {seed}")
    tested = test_questions()
    asked = {" ".join(words(text)) for text in tested}
    training = [text for text in _training(rng, each) if " ".join(words(text)) not in asked]
    rng.shuffle(training)
    rows = [("train", text) for text in training] + [("test", text) for text in tested]
    made: list[dict[str, object]] = []
    for number, (split, question) in enumerate(rows):
        answer, emotion, pitch = ANSWERS[number % len(ANSWERS)]
        made.append({
            "id": f"outside-{number:05d}", "question": question, "answer": answer, "intent": INTENT, "slots": {},
            "emotion": emotion, "pitch": pitch, "user_emotion": "neutral", "user_pitch": "normal", "split": split,
            "held_out": "outside" if split == "test" else "",
        })  # fmt: skip
    return made
