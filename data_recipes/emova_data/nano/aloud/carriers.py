"""Sentences made to be spoken: every word of the synthesizer's lexicon in turn, and figures as people write them."""

from __future__ import annotations

import functools
import gzip
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from emova_data.nano.text.sentence_words import WORDS
from emova_data.nano.text.sentences import _AVOID

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_LISTS = (
    "The words are {0}, {1} and {2}.",
    "I said {0}, not {1}.",
    "Please write {0}, {1}, and {2}.",
    "Is it {0} or {1}?",
    "First {0}, then {1}, then {2}.",
    "She read {0} and {1} from the list.",
    "{0}, {1}, {2}, {3}.",
    "What do {0} and {1} mean?",
    "He wrote {0} on the board.",
    "My word is {0}.",
)
_NAMED = (
    "{0} {1} called this morning.",
    "I met {0} and {1} at the station.",
    "This is {0} {1} speaking.",
    "Have you seen {0} today?",
    "{0}, this is my friend {1}.",
    "Mr. {1} and Mrs. {2} live next door.",
    "Dr. {0} will see you now.",
    "We drove from {0} to {1}.",
    "My name is {0} {1}.",
    "Do you know {0} from {1}?",
    "Thank you, {0}!",
    "{0} said that {1} was in {2}.",
)


@functools.cache
def lexicon_words() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Common words and names of the bundled American lexicon, fit to be said."""
    import hibari

    path = Path(hibari.__file__).parent / "assets" / "lexicon_us_gold.json.gz"
    with gzip.open(path, "rt", encoding="utf-8") as handle:
        entries = [word for word in json.load(handle) if re.fullmatch(r"[A-Za-z][a-z']{2,}[a-z]", word)]
    fit = [word for word in entries if not _AVOID.search(word)]
    return tuple(word for word in fit if word[0].islower()), tuple(word for word in fit if word[0].isupper())


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _dealt(words: Sequence[str], patterns: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Every word once, in an order of its own, in patterns that take as many as they have places for."""
    left = list(words)
    rng.shuffle(left)
    while left:
        pattern = rng.choice(patterns)
        places = len(set(re.findall(r"\{\d\}", pattern)))
        taken = [left.pop() if left else rng.choice(words) for _ in range(places)]
        top = max(int(place) for place in re.findall(r"\{(\d)\}", pattern)) + 1
        taken += [rng.choice(words) for _ in range(top - places)]
        yield _capital(pattern.format(*taken))


def lexicon_sentences(seed: int) -> Iterator[str]:
    """Common words in lists, endlessly: each pass says every word once."""
    rng = random.Random(f"lexicon {seed}")
    while True:
        yield from _dealt(lexicon_words()[0], _LISTS, rng)


def name_sentences(seed: int) -> Iterator[str]:
    """Names of people and places, endlessly: each pass says every name once."""
    rng = random.Random(f"names {seed}")
    while True:
        yield from _dealt(lexicon_words()[1], _NAMED, rng)


def _count(rng: random.Random) -> str:
    value = rng.choice((rng.randrange(2, 21), rng.randrange(21, 100), rng.randrange(100, 1000),
                        rng.randrange(1000, 20000), rng.randrange(20000, 999999)))  # fmt: skip
    return f"{value:,}" if value > 9999 or (value > 999 and rng.random() < 0.7) else str(value)


def _year(rng: random.Random) -> str:
    return str(rng.choice((rng.randrange(1700, 1990), rng.randrange(1950, 2031))))


def _time(rng: random.Random) -> str:
    hour, minute = rng.randrange(1, 13), rng.choice((0, 5, 10, 15, 20, 30, 40, 45, 50, rng.randrange(60)))
    return rng.choice((f"{hour}:{minute:02d}", f"{hour}:{minute:02d} {rng.choice(('AM', 'PM', 'a.m.', 'p.m.'))}",
                       f"{hour} o'clock", f"{hour} {rng.choice(('AM', 'PM'))}"))  # fmt: skip


def _date(rng: random.Random) -> str:
    month, day = rng.choice(MONTHS), rng.randrange(1, 32)
    ending = "th" if 10 <= day <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return rng.choice((f"{month} {day}", f"{month} {day}{ending}", f"{month} {day}, {_year(rng)}",
                       f"the {day}{ending} of {month}", f"{rng.choice(DAYS)}, {month} {day}"))  # fmt: skip


def _price(rng: random.Random) -> str:
    dollars = rng.choice((rng.randrange(1, 20), rng.randrange(20, 200), rng.randrange(200, 5000)))
    cents = rng.choice((0, 50, 99, 95, 25, rng.randrange(1, 100)))
    return f"${dollars:,}" if rng.random() < 0.4 else f"${dollars:,}.{cents:02d}"


def _share(rng: random.Random) -> str:
    return f"{rng.randrange(1, 101)}{rng.choice(('%', ' percent'))}"


def _decimal(rng: random.Random) -> str:
    return f"{rng.randrange(0, 120)}.{rng.randrange(1, 100)}"


_FIGURES: dict[str, Callable[[random.Random], str]] = {
    "count": _count, "year": _year, "time": _time, "date": _date, "price": _price, "share": _share,
    "decimal": _decimal, "small": lambda rng: str(rng.randrange(2, 60)), "day": lambda rng: rng.choice(DAYS),
    "digit": lambda rng: str(rng.randrange(10)),
}  # fmt: skip
_FIGURED = (
    "The train leaves at {time}.", "We meet on {date} at {time}.", "It costs {price}.", "The {thing} was {price}.",
    "{person_name} was born in {year}.", "My birthday is on {date}.", "There were {count} people in the {place}.",
    "I paid {price} for the {thing} and {price} for the {thing}.", "About {share} of them said yes.",
    "The temperature is {small} degrees.", "Call me at {time} tomorrow.", "The shop opens at {time} on {day}.",
    "The flight takes {small} hours and {small} minutes.", "Turn to page {count}.", "The answer is {decimal}.",
    "In {year}, the town had {count} people.", "It weighs {decimal} pounds.", "The meeting is on {day} at {time}.",
    "We have {small} {things} left.", "She is {small} years old.", "The code is {digit} {digit} {digit} {digit}.",
    "Can you come at {time} on {day}?", "From {year} to {year} he lived in {country}.", "Room {count} is upstairs.",
    "{small} plus {small} is {count}.", "The {job} earned {price} in {year}.", "Prices rose by {share} in {year}.",
    "Your order number is {count}.", "It is {time} now.", "The concert starts at {time}, on {date}.",
    "He ran {decimal} miles in {small} minutes.", "The bus comes every {small} minutes.", "I need {count} {things}.",
    "The rent is {price} a month.", "Is {price} too much for a {thing}?",
    "On {date}, {person_name} moved to {country}.",
    "The total comes to {price}.", "Chapter {small} begins on page {count}.", "Set the timer for {small} minutes.",
    "The score was {small} to {small}.", "At {time} it was {small} degrees and {weather}.",
    "Only {share} of the {things} are {adj}.", "Wake me up at {time}, please.", "The game was on {date}.",
)  # fmt: skip


def figure_sentences(seed: int) -> Iterator[str]:
    """Counts, dates, times, prices, ages and shares in everyday sentences, endlessly."""
    rng = random.Random(f"figures {seed}")

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        if name in _FIGURES:
            return _FIGURES[name](rng)
        return rng.choice(WORDS["name" if name == "person_name" else name])

    while True:
        yield re.sub(r"m\.\.$", "m.", _capital(re.sub(r"\{(\w+)\}", fill, rng.choice(_FIGURED))))
