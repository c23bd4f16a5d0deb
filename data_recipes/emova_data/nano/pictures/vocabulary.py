"""The closed vocabularies of the pictures and the rule that gives an answer its emotion and pitch."""

from __future__ import annotations

NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip

# Things of the kind "objects". A plural name takes "these are".
OBJECTS = (
    "cat", "dog", "horse", "cow", "pig", "sheep", "rabbit", "elephant", "lion", "bear", "monkey", "frog", "fish",
    "duck", "chicken", "owl", "penguin", "bee", "butterfly", "spider", "snail", "zebra",
    "apple", "banana", "orange", "strawberry", "pineapple", "tomato", "carrot", "mushroom", "cheese", "cake",
    "car", "bus", "train", "plane", "boat", "bicycle", "rocket", "guitar", "camera", "key", "umbrella", "hammer",
    "house", "tree", "flower", "balloon", "snowman", "crown", "fire", "broken heart",
)  # fmt: skip
OBJECTS_WITHOUT_ARTICLE = frozenset({"cheese"})
PETS = frozenset({"cat", "dog", "rabbit"})
PARTY_THINGS = frozenset({"cake", "balloon", "snowman"})

SHAPES = ("circle", "square", "triangle", "star", "heart")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 36, 36),
    "blue": (38, 84, 214),
    "green": (34, 158, 60),
    "yellow": (246, 208, 20),
    "orange": (244, 130, 20),
    "purple": (132, 46, 178),
    "black": (24, 24, 28),
    "white": (248, 248, 248),
}
PLACES = ("top left", "top right", "bottom left", "bottom right", "middle")

# Bar labels by theme: word said -> label drawn.
BAR_LABELS: dict[str, dict[str, str]] = {
    "fruit": {w: w for w in ("apples", "bananas", "pears", "lemons", "plums")},
    "animals": {w: w for w in ("cats", "dogs", "birds", "fish", "cows")},
    "traffic": {w: w for w in ("cars", "bikes", "buses", "trains", "boats")},
    "days": {"Monday": "Mon", "Tuesday": "Tue", "Wednesday": "Wed", "Thursday": "Thu", "Friday": "Fri"},
}
NAMES = ("Anna", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Ivy", "Jack")
TOP_SCORE = 12
TOP_BAR = 10

PRODUCTS = (
    "cheese", "bread", "milk", "eggs", "apples", "tea", "coffee", "honey", "cake", "rice", "soap", "jam", "fish",
    "juice", "pizza", "butter",
)  # fmt: skip
PLURAL_PRODUCTS = frozenset({"eggs", "apples"})
# in cents: one to twenty dollars, and one to nine dollars fifty
PRICES = tuple(sorted([100 * d for d in range(1, 21)] + [100 * d + 50 for d in range(1, 10)]))
THRESHOLDS = (500, 1000)

SIGNS = (
    "stop", "exit", "open", "closed", "pull", "push", "taxi", "bus", "hotel", "cafe", "bank", "sale", "free", "slow",
    "danger", "police", "parking", "no entry", "keep out", "help",
)  # fmt: skip
SIGN_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (200, 30, 36),
    "blue": (24, 74, 176),
    "green": (16, 122, 66),
    "yellow": (246, 206, 26),
    "orange": (240, 122, 24),
    "black": (28, 28, 32),
    "white": (246, 246, 244),
}

EVENTS = (
    "concert", "party", "circus", "market", "movie night", "football game", "chess game", "dance", "art show",
    "book fair", "picnic", "race", "play", "magic show", "memorial", "meeting",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
VENUES = ("park", "beach", "school", "lake", "church")

FACES = ("happy", "sad", "angry", "surprised", "sleepy")
WEATHERS = ("sunny", "cloudy", "rainy", "snowy", "stormy")

KIND_NAMES: dict[str, str] = {
    "objects": "picture of one thing",
    "scenes": "picture of shapes",
    "charts": "bar chart",
    "tables": "table",
    "price_tags": "price tag",
    "signs": "sign",
    "posters": "poster",
    "faces": "drawing of a face",
    "weather": "drawing of the weather",
}

Mood = tuple[str, str]  # (emotion, pitch)
PLAIN: Mood = ("neutral", "normal")
GLAD: Mood = ("happy", "normal")
DELIGHTED: Mood = ("happy", "high")
SORRY: Mood = ("sad", "low")
STERN: Mood = ("angry", "low")

SIGN_MOODS: dict[str, Mood] = {
    "danger": STERN, "no entry": STERN, "keep out": STERN, "sale": DELIGHTED, "free": DELIGHTED, "closed": SORRY,
    "open": GLAD,
}  # fmt: skip
EVENT_MOODS: dict[str, Mood] = {
    "concert": DELIGHTED, "party": DELIGHTED, "circus": DELIGHTED, "dance": DELIGHTED, "magic show": DELIGHTED,
    "picnic": GLAD, "memorial": SORRY,
}  # fmt: skip
FACE_MOODS: dict[str, Mood] = {
    "happy": GLAD, "sad": SORRY, "angry": ("angry", "high"), "surprised": ("neutral", "high"),
    "sleepy": ("neutral", "low"),
}  # fmt: skip
WEATHER_MOODS: dict[str, Mood] = {
    "sunny": GLAD, "cloudy": ("neutral", "low"), "rainy": SORRY, "snowy": DELIGHTED, "stormy": STERN,
}  # fmt: skip


def object_mood(name: str) -> Mood:
    """Pets make glad, a party delights, a broken heart saddens, fire is a warning; all else is plain."""
    if name in PETS:
        return GLAD
    if name in PARTY_THINGS:
        return DELIGHTED
    return {"broken heart": SORRY, "fire": STERN}.get(name, PLAIN)


def price_mood(cents: int) -> Mood:
    """A bargain (two dollars at most) delights, more than ten dollars saddens."""
    if cents <= 200:
        return DELIGHTED
    return SORRY if cents > 1000 else PLAIN


def with_article(name: str) -> str:
    """``cat`` -> ``a cat``, ``owl`` -> ``an owl``, ``cheese`` -> ``cheese``."""
    if name in OBJECTS_WITHOUT_ARTICLE:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def price_words(cents: int) -> str:
    """250 -> ``two dollars and fifty cents``."""
    dollars, rest = divmod(cents, 100)
    words = f"{NUMBERS[dollars]} dollar{'' if dollars == 1 else 's'}"
    return f"{words} and fifty cents" if rest else words


def plural(shape: str, count: int) -> str:
    """``star`` -> ``stars`` unless there is one."""
    return shape if count == 1 else f"{shape}s"


NEXT_LABEL: dict[str, str] = {
    word: words[(i + 1) % len(words)]
    for words in (tuple(labels) for labels in BAR_LABELS.values())
    for i, word in enumerate(words)
}
