"""The sentences to be read aloud: ``text/aloud.jsonl`` for training, ``text/aloud_test.jsonl`` from held-out sources.

Rows are ``{id, text, source, licence}``. The sources are mixed evenly, so that any beginning of the file is a fair
sample of the whole and a training can start before all of it is spoken.

    python -m emova_data.nano.aloud.texts --root data
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from emova.cli.main import Parser, run_program
from emova_data.nano.aloud.carriers import figure_sentences, lexicon_sentences, name_sentences
from emova_data.nano.aloud.corpora import CORPORA
from emova_data.nano.aloud.packages import fetch_texts
from emova_data.nano.aloud.wording import key
from emova_data.nano.text.sentences import write_jsonl

OWN = "Apache-2.0"
MADE = (("figures", figure_sentences, 12_000), ("names", name_sentences, 9_000), ("lexicon", lexicon_sentences, 14_000))
TEST_EACH = 100
MOST_SHORT = 0.12
"""The share of a source that may have three words or fewer."""

Row = dict[str, str]


def written_by_hand() -> list[str]:
    """The test's own sentences: numbers, dates, times, prices and names as people write them."""
    path = Path(__file__).with_name("test_sentences.txt")
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


def held_out(sources: Path, seed: int) -> list[Row]:
    """The test's sentences, of sources that no training reads."""
    rows = [{"text": text, "source": "by-hand", "licence": OWN} for text in written_by_hand()]
    for corpus in CORPORA:
        if corpus.held_out:
            texts = sorted({text for text in corpus.read(sources) if 3 <= len(text.split()) <= 14})
            chosen = random.Random(f"{corpus.name} {seed}").sample(texts, TEST_EACH)
            rows += [{"text": text, "source": corpus.name, "licence": corpus.licence} for text in chosen]
    return _numbered(rows, "aloud_test")


def training(sources: Path, seed: int, banned: Iterable[str]) -> list[Row]:
    """The training's sentences, none of them ``banned``."""
    seen = {key(text) for text in banned}
    placed: list[tuple[float, Row]] = []

    def take(name: str, licence: str, texts: Iterable[str], count: int) -> None:
        rng = random.Random(f"{name} {seed}")
        kept: list[str] = []
        short = 0
        for text in texts:
            form = key(text)
            if form in seen:
                continue
            brief = len(text.split()) <= 3
            if brief and short >= MOST_SHORT * count:
                continue
            short += brief
            seen.add(form)
            kept.append(text)
            if len(kept) == count:
                break
        # A source's sentences lie evenly over the whole file, each in its own stretch of it.
        for number, text in enumerate(kept):
            placed.append(((number + rng.random()) / len(kept), {"text": text, "source": name, "licence": licence}))

    for corpus in CORPORA:
        if corpus.count:
            texts = list(dict.fromkeys(corpus.read(sources)))
            random.Random(f"{corpus.name} {seed}").shuffle(texts)
            take(corpus.name, corpus.licence, texts, corpus.count)
    for name, make, count in MADE:
        take(name, OWN, itertools.islice(make(seed), 3 * count), count)
    placed.sort(key=lambda entry: entry[0])
    return _numbered([row for _, row in placed], "aloud")


def _numbered(rows: list[Row], name: str) -> list[Row]:
    return [{"id": f"{name}_{number:06d}", **row} for number, row in enumerate(rows)]


def write(root: Path, seed: int) -> None:
    """Fetch the packages and write both files below ``root/nano/text``. Raises: InputError: one cannot be fetched."""
    folder = root / "nano" / "text"
    sources = fetch_texts(root, report=lambda what: print(f"fetching {what}", file=sys.stderr, flush=True))
    test = held_out(sources, seed)
    write_jsonl(folder / "aloud_test.jsonl", test)
    rows = training(sources, seed, [row["text"] for row in test])
    write_jsonl(folder / "aloud.jsonl", rows)
    for what, some in (("training", rows), ("test", test)):
        counts = Counter(row["source"] for row in some)
        print(f"{what}: {len(some)} sentences; " + ", ".join(f"{name} {n}" for name, n in counts.items()))


def main() -> None:
    parser = Parser(prog="python -m emova_data.nano.aloud.texts", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.root, arguments.seed)


if __name__ == "__main__":
    run_program(main)
