"""Spoken small talk for EMOVA's instruction tuning (EMOVA §4.2): the exchanges, their style labels, their judge.

The intents stand in ``talk_*.yaml``: phrasings of the user, answers that fit each of them, slot tables, and how the
answer sounds. Questions are expanded from the phrasings with natural openers; answers are a small closed set, so that a
small language model can learn to say them well. The paper labels styles with a large model; here the label follows
from what is said, by this rule on the intent:

=================  ====================================================================================
answer sounds      when
=================  ====================================================================================
neutral, normal    facts, instructions, plain information (also sadness of envy, hunger, a request to wait)
neutral, low       calming and hushed: anger, fear, nerves, tiredness or insults of the user, sleep, secrets
neutral, high      curious: the user has news, wants a riddle or a surprising fact
happy, normal      friendly: greetings, thanks, names, favorites, ideas, journeys
happy, high        joyful: good news, praise, pride, birthdays, jokes, encouragement
happy, low         tender: good night, love, forgiveness, cozy hours, poems
sad, normal        sympathy for small or slow troubles: mishaps, lost things, illness, loneliness, "I can't do that"
sad, low           grief: death, broken hearts, failure, sadness, missing someone
sad, high          pity at once: an animal is hurt
angry, normal      injustice to the user: unfair bosses, cheats
angry, high        outrage at an offence just done: theft, rude people
angry, low         grave anger: bullying, cruelty, betrayal
=================  ====================================================================================

``speak_style`` asks for one of the twelve by name, and the label obeys. ``user_emotion`` and ``user_pitch`` say how the
question itself is spoken.

Held out for test: two phrasings of each intent, and for intents with slots a hashed share of (phrasing, slots) pairs.

The phrasings in ``talk_more/`` and ``talk_more_2/`` are for training alone. They came later, from writers who had not
seen the test's; the exchanges that were there before, and the test, are the same with and without them.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, Required, TypedDict

import yaml

from emova.cli.main import Parser, run_program
from emova.core.levenshtein import edit_distance
from emova.core.writing import write_text
from emova_data.nano.text.sentences import write_jsonl
from emova_data.nano.text.spoken_text import number_words, words
from emova_data.nano.voices.styles import NANO_STYLES

EMOTIONS, PITCHES = NANO_STYLES.emotions, NANO_STYLES.pitches
MAX_WORDS = 14
MORE_FOLDERS = {"talk_more": "more", "talk_more_2": "more 1"}
"""Folders of further phrasings, in the order in which they came, and what names each one's random choices."""
MORE = "more-"
"""What the ids of exchanges from further phrasings begin with."""
COMBINATION_SHARE = 0.08
"""Share of (train phrasing, slots) pairs kept for test."""

_OPENERS = {
    "none": ("",),
    "ask": ("Hey, ", "Hello, ", "Please, ", "Excuse me, ", "Okay, ", "So, ", "Now, ", "Hi, "),
    "tell": ("Well, ", "Oh, ", "Listen, ", "You know, ", "Hey, ", "Honestly, ", "Ah, "),
}
_OPENER_CHANCE = 0.4
_OPENED = re.compile(r"^(?:please|hello|hi|hey|okay|oh|well|good|say|listen|sorry|guess|help|wow|do you hear)\b", re.I)
_FIRST_PERSON = re.compile(r"^I(?:'\w+)?\b")


class IntentEntry(TypedDict, total=False):
    """An intent as ``talk/*.yaml`` has it; ``Intent`` says what is in it."""

    style: str
    user: str
    open: str
    columns: list[str]
    rows: str
    questions: Required[str]
    test: Required[str]
    answers: Required[str]


class Exchange(TypedDict):
    """A line of ``talk.jsonl``. ``held_out``: what of a test's question is not trained on, ``phrasing`` or
    ``combination``."""

    id: NotRequired[str]
    question: str
    answer: str
    intent: str
    slots: dict[str, str]
    emotion: str
    pitch: str
    user_emotion: str
    user_pitch: str
    split: str
    held_out: str


@dataclass(frozen=True)
class Intent:
    """One thing that a user may say, and how to answer it.

    Args:
        name: identifier.
        emotion, pitch: style of the answer; a row's columns of these names come first.
        user_emotion, user_pitch: style of the question.
        opener: which openers may stand before a question: none, ask, tell.
        rows: slot tables, one mapping a row; one empty mapping where there are no slots.
        questions, test: phrasings with (a|b) and {slot}.
        more: those of each of ``MORE_FOLDERS``.
        answers: patterns, each fitting every phrasing of its row.
    """

    name: str
    emotion: str
    pitch: str
    user_emotion: str
    user_pitch: str
    opener: str
    rows: tuple[Mapping[str, str], ...]
    questions: tuple[str, ...]
    test: tuple[str, ...]
    more: Mapping[str, tuple[str, ...]]
    answers: tuple[str, ...]

    def style(self, slots: Mapping[str, str]) -> tuple[str, str]:
        """(emotion, pitch) of the answer."""
        return slots.get("emotion", self.emotion), slots.get("pitch", self.pitch)

    def replies(self, slots: Mapping[str, str]) -> tuple[str, ...]:
        """All answers that fit a question with these slots."""
        return tuple(fill(answer, slots) for answer in self.answers)


def expand(pattern: str) -> list[str]:
    """All texts of a pattern with ``(a|b)`` alternatives; an empty alternative leaves the words out."""
    parts = [part[1:-1].split("|") if part.startswith("(") else [part] for part in re.split(r"(\([^()]*\))", pattern)]
    texts = ("".join(choice) for choice in itertools.product(*parts))
    return [re.sub(r" ([,.?!])", r"\1", re.sub(r" {2,}", " ", text)).strip() for text in texts]


def fill(pattern: str, slots: Mapping[str, str]) -> str:
    """Put slots in; correct ``a`` before vowels and capital letters at the starts of sentences."""
    text = re.sub(r"\{(\w+)\}", lambda m: slots[m[1]], pattern)
    text = re.sub(r"\b([Aa])(?= (?:[aeio]|u(?!s[eu]|ni))\w)", r"\1n", text)
    return re.sub(r"(^|[.?!] )([a-z])", lambda m: m[1] + m[2].upper(), text)


def _sums() -> Iterator[dict[str, str]]:
    pairs = [(a, b) for a in range(1, 6) for b in range(1, 6)] + [(n, n) for n in range(6, 11)]
    for a, b in pairs:
        yield {"a": number_words(a), "b": number_words(b), "sum": number_words(a + b)}


def _lines(block: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in block.splitlines() if line.strip())


def _rows(columns: Sequence[str], block: str | None) -> tuple[Mapping[str, str], ...]:
    if block is None:
        return ({},)
    if block == "sums":
        return tuple(_sums())
    rows = [[cell.strip() for cell in line.split(";")] for line in _lines(block)]
    assert all(len(row) == len(columns) for row in rows), (columns, rows)
    return tuple(dict(zip(columns, row, strict=True)) for row in rows)


@functools.cache
def load_intents() -> Mapping[str, Intent]:
    """All intents by name, in the order of the files' names."""
    found: dict[str, Intent] = {}
    here = Path(__file__).parent
    more: dict[str, dict[str, str]] = {folder: {} for folder in MORE_FOLDERS}
    for folder, further in more.items():
        for path in sorted((here / folder).glob("*.yaml")):
            further |= yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((here / "talk").glob("*.yaml")):
        entries: dict[str, IntentEntry] = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, entry in entries.items():
            assert name not in found, name
            emotion, pitch = entry.get("style", "neutral normal").split()
            user_emotion, user_pitch = entry.get("user", "neutral normal").split()
            found[name] = Intent(
                name, emotion, pitch, user_emotion, user_pitch, entry.get("open", "ask"),
                _rows(entry.get("columns", ()), entry.get("rows")),
                _lines(entry["questions"]), _lines(entry["test"]),
                {folder: _lines(further.pop(name, "")) for folder, further in more.items()}, _lines(entry["answers"]),
            )  # fmt: skip
    unknown = [name for further in more.values() for name in further]
    assert not unknown, f"no such intents: {', '.join(unknown)}"
    return found


def acceptable_answers(intent: str, slots: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The reference answers of an intent.

    Raises:
        KeyError: no such intent, or a slot is missing.
    """
    return load_intents()[intent].replies(slots or {})


def appropriate(intent: str, slots: Mapping[str, str] | None, answer: str, least: float = 0.8) -> bool:
    """Whether ``answer`` answers the intent: the same words as a reference, or nearly, with every slot word in place.

    Nearness is 1 - edit distance / longer length in words, at least ``least``, so that words in disorder are none; a
    negation on one side alone turns the sense, and is none either. The words that the reference takes from slots
    (``a banana is {color}``) must all be there, and no word may come instead that another row would have put there.
    """
    slots = slots or {}
    item = load_intents()[intent]
    given = words(answer)
    if not given:
        return False
    for pattern in item.answers:
        reference = words(fill(pattern, slots))
        if given == reference:
            return True
        near = _nearness(given, reference)
        if near < least or _negations(given) != _negations(reference):
            continue
        names = re.findall(r"\{(\w+)\}", pattern)
        needed = {w for name in names for w in words(slots[name])}
        wrong = {w for row in item.rows for name in names for w in words(row[name])} - set(reference)
        if len(needed) > 3:  # a whole sentence stands in a slot: it must be nearer than any other row's
            if all(_nearness(given, words(fill(pattern, row))) <= near for row in item.rows):
                return True
        elif needed <= set(given) and not wrong & set(given):
            return True
    return False


def _nearness(a: Sequence[str], b: Sequence[str]) -> float:
    """1 for the same words in the same order, 0 for none of them."""
    return 1 - edit_distance(a, b) / max(len(a), len(b), 1)


def _negations(text: Sequence[str]) -> int:
    return sum(word in ("no", "not", "never", "nothing", "nobody", "none") or word.endswith("n't") for word in text)


def _key(text: str) -> str:
    return " ".join(words(text))


def core(intent: Intent, question: str) -> str:
    """The words of a question less its openers and ``please``: what must differ between train and test."""
    text = _key(question)
    if intent.opener == "none":
        return text
    openers = {_key(opener) for opener in _OPENERS[intent.opener]} | {"please"}
    while opener := next((o for o in openers if text.startswith(o + " ")), None):
        text = text[len(opener) + 1 :]
    return text.removesuffix(" please")


def _held_out(intent: Intent, question: str) -> bool:
    digest = hashlib.sha256(f"{intent.name} {core(intent, question)}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < COMBINATION_SHARE * 2**32


@functools.cache
def _proper_names() -> frozenset[str]:
    return frozenset(
        word
        for intent in load_intents().values()
        for row in intent.rows
        for value in row.values()
        for word in value.split()[:1]
        if word[0].isupper() and len(value.split()) <= 2
    )


def with_opener(question: str, kind: str, rng: random.Random) -> str:
    """Now and then put a natural opener before a question."""
    openers = _OPENERS[kind]
    if rng.random() >= _OPENER_CHANCE or openers == ("",) or _OPENED.match(question):
        return question
    first = re.split(r"[ ,]", question, maxsplit=1)[0]
    keep = _FIRST_PERSON.match(question) or first in _proper_names()
    opened = rng.choice(openers) + (question if keep else question[0].lower() + question[1:])
    return opened if len(opened.split()) <= MAX_WORDS else question


def _questions(patterns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> list[tuple[str, Mapping[str, str], int]]:
    found = []
    for index, pattern in enumerate(patterns):
        for text in expand(pattern):
            for row in rows:
                question = fill(text, row)
                if len(question.split()) <= MAX_WORDS:
                    found.append((question, row, index))
    return found


def _spread(
    items: Sequence[tuple[str, Mapping[str, str], int]], count: int, rng: random.Random
) -> list[tuple[str, Mapping[str, str], int]]:
    """Up to ``count`` items, the phrasings (and within them the rows) as even as can be."""
    by_pattern: dict[int, list[tuple[str, Mapping[str, str], int]]] = {}
    for item in items:
        by_pattern.setdefault(item[2], []).append(item)
    used: Counter[str] = Counter()
    queues = list(by_pattern.values())
    for queue in queues:
        rng.shuffle(queue)
    picked: list[tuple[str, Mapping[str, str], int]] = []
    while queues and len(picked) < count:
        for queue in list(queues):
            best = min(range(len(queue)), key=lambda i: used[str(queue[i][1])])
            item = queue.pop(best)
            used[str(item[1])] += 1
            picked.append(item)
            if not queue:
                queues.remove(queue)
            if len(picked) == count:
                break
    return picked


def _intent_records(intent: Intent, rng: random.Random, train: int, test: int) -> Iterator[Exchange]:
    slotted = len(intent.rows) > 1
    pool = _questions(intent.questions, intent.rows)
    known = {core(intent, q[0]) for q in pool}
    unseen = [q for q in _questions(intent.test, intent.rows) if core(intent, q[0]) not in known]
    kept_out = [q for q in pool if slotted and _held_out(intent, q[0])]
    pool = [q for q in pool if not (slotted and _held_out(intent, q[0]))]
    count = max(train, 6 * len(intent.rows)) if slotted else train
    parts = (
        ("train", "", _spread(pool, count, rng)),
        ("test", "phrasing", _spread(unseen, test, rng)),
        ("test", "combination", _spread(kept_out, test // 2, rng)),
    )
    seen: set[str] = set()
    for split, held_out, items in parts:
        few = len(items) < (count if split == "train" else test)
        rounds = 2 if few and held_out != "combination" else 1  # few phrasings: once more with other openers
        yield from _exchanges(intent, items * rounds, rng, seen, split, held_out)


def _exchanges(
    intent: Intent,
    items: Sequence[tuple[str, Mapping[str, str], int]],
    rng: random.Random,
    seen: set[str],
    split: str,
    held_out: str = "",
) -> Iterator[Exchange]:
    """An exchange for each of ``items`` whose question is not among ``seen``, the intent's answers in turn."""
    turn = rng.randrange(len(intent.answers))
    for question, slots, _ in items:
        asked = with_opener(question, intent.opener, rng)
        if _key(asked) in seen:
            continue
        seen.add(_key(asked))
        replies = intent.replies(slots)
        turn += 1
        emotion, pitch = intent.style(slots)
        yield {
            "question": asked,
            "answer": replies[turn % len(replies)],
            "intent": intent.name,
            "slots": dict(slots),
            "emotion": emotion,
            "pitch": pitch,
            "user_emotion": intent.user_emotion,
            "user_pitch": intent.user_pitch,
            "split": split,
            "held_out": held_out,
        }


def _more_records(records: Sequence[Exchange], seed: int, count: int, folder: str) -> Iterator[Exchange]:
    """About ``count`` training exchanges an intent from a folder of further phrasings, none of them asked already."""
    seen = {_key(record["question"]) for record in records}
    for intent in load_intents().values():
        rng = random.Random(f"{seed} {MORE_FOLDERS[folder]} {intent.name}")
        tested = {core(intent, text) for text, _, _ in _questions(intent.test, intent.rows)}
        tested |= {core(intent, r["question"]) for r in records if r["intent"] == intent.name and r["split"] == "test"}
        further = _questions(intent.more[folder], intent.rows)
        pool = [each for each in further if core(intent, each[0]) not in tested]
        wanted = max(count, count * len(intent.rows) // 10)
        yield from _exchanges(intent, _spread(pool, wanted, rng), rng, seen, "train")


def build(seed: int = 0, train: int = 60, test: int = 8, more: int = 40) -> list[Exchange]:
    """All exchanges: about ``train`` an intent (six a row where there are more), ``test`` held-out ones an intent, and
    after them about ``more`` (a tenth of it a row where there are many) from each folder of further phrasings."""
    records: list[Exchange] = []
    for intent in load_intents().values():
        rng = random.Random(f"{seed} {intent.name}")  # an intent's exchanges do not depend on the others
        records += list(_intent_records(intent, rng, train, test))
    random.Random(seed).shuffle(records)
    further: list[Exchange] = []
    for folder, name in MORE_FOLDERS.items():
        batch = list(_more_records([*records, *further], seed, more, folder))
        random.Random(f"{seed} {name}").shuffle(batch)
        further += batch
    names = [f"talk-{i:05d}" for i in range(len(records))] + [f"{MORE}{i:05d}" for i in range(len(further))]
    return [{"id": name, **record} for name, record in zip(names, [*records, *further], strict=True)]


def distribution(records: Sequence[Exchange]) -> str:
    """A table of the answers' styles, emotions down, pitches across."""
    counts = Counter((r["emotion"], r["pitch"]) for r in records)
    rows = [f"{'':9}" + "".join(f"{p:>8}" for p in PITCHES)]
    rows += [f"{e:9}" + "".join(f"{counts[e, p]:>8}" for p in PITCHES) for e in EMOTIONS]
    return "\n".join(rows)


def main() -> None:
    parser = Parser(
        prog="python -m emova_data.nano.text.talk", description="Write the small talk and the list of all words."
    )
    parser.add_argument("--out", type=Path, default=Path("data/nano/text/talk.jsonl"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=60, help="training exchanges an intent")
    parser.add_argument("--test", type=int, default=8, help="held-out exchanges an intent")
    parser.add_argument(
        "--more", type=int, default=40, help="training exchanges an intent from each folder of further phrasings"
    )
    args = parser.parse_args()
    records = build(args.seed, args.train, args.test, args.more)
    write_jsonl(args.out, records)
    vocabulary = {w for r in records for w in (*words(r["question"]), *words(r["answer"]))}
    sentences = args.out.with_name("sentences.jsonl")
    if sentences.is_file():
        vocabulary |= {w for text in _texts(sentences) for w in words(text)}
    write_text(args.out.with_name("words.txt"), "\n".join(sorted(vocabulary)) + "\n")
    splits = Counter(r["split"] + (f" ({r['held_out']})" if r["held_out"] else "") for r in records)
    print(f"{args.out}: {len(records)} exchanges of {len(load_intents())} intents, {dict(splits)}")
    print(f"{len({r['answer'] for r in records})} distinct answers\n{distribution(records)}")


def _texts(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as handle:
        for line in handle:
            yield json.loads(line)["text"]


if __name__ == "__main__":
    run_program(main)
