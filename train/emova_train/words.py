"""The words of ordinary speech, from texts: how they sound, and which one follows which.

    emova train words --text data/nano/text/aloud.jsonl --tokenizer runs/s2u-nano/export

Words sound as the dictionary reads them where they stand, so that "the" has both of its sounds; pairs have absolute
discounting (Ney, Essen and Kneser 1994). ``emova transcribe`` looks for the words (``emova.decoding.word_search``).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from emova.checkpoint.files import WORDS
from emova.core.errors import InputError
from emova.decoding.word_search import WordModel
from emova.speech.spelling import read_words
from emova.speech.tokenizer.phones import PhoneInventory
from emova_train.core.program import run_module

Sounds = tuple[str, ...]

_WORD = re.compile(r"[A-Za-z](?:[A-Za-z'’-]*[A-Za-z])?")
DISCOUNT = 0.75
RARE_SOUND = 0.05
"""A way to say a word that is rarer than this share of it is left out."""
MOST_SOUNDS = 3


@dataclass
class Counts:
    """What was seen.

    Attributes:
        sounds: of each word, how often it sounded how.
        written: how often it was written how within a sentence.
        pairs: how often a word came after another, "" before the first and behind the last.
    """

    sounds: dict[str, Counter[Sounds]] = field(default_factory=lambda: defaultdict(Counter))
    written: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, text: str, inventory: PhoneInventory) -> None:
        """A sentence. What is no word of letters, or has no sound of the inventory, parts what is around it."""
        before: str | None = ""
        for number, (written, symbols) in enumerate(read_words(text)):
            word, known = written.lower().replace("’", "'"), inventory.ids(symbols)
            if not known.ids:
                continue  # punctuation
            if not _WORD.fullmatch(written) or known.unknown:
                before = None
                continue
            self.sounds[word][tuple(inventory.names(known.ids))] += 1
            self.written[word][written if number else word] += 1
            if before is not None:
                self.pairs[before, word] += 1
            before = word
        if before:
            self.pairs[before, ""] += 1


def build(counts: Counts, least: int = 1) -> WordModel:
    """The model of what was seen; pairs that came less than ``least`` times are left out.

    Raises:
        InputError: no word was seen.
    """
    words = sorted(counts.sounds)
    if not words:
        raise InputError("the texts: no English words in them")
    ids = {word: number for number, word in enumerate(words)} | {"": len(words)}
    size, totals, kinds = len(words) + 1, np.zeros(len(words) + 1), np.zeros(len(words) + 1)
    for (before, _), count in counts.pairs.items():
        totals[ids[before]] += count
        kinds[ids[before]] += 1
    seen = np.array([sum(counts.sounds[word].values()) for word in words], float)
    sentences = max(1, sum(count for (_, word), count in counts.pairs.items() if not word))
    shares = np.concatenate([seen + 0.1, [sentences]])  # the last is the end
    shares /= shares.sum()
    left = np.where(totals > 0, DISCOUNT * kinds / np.maximum(totals, 1), 1.0)  # for words that never came behind it
    last = shares[-1] * left
    after: list[list[tuple[int, float]]] = [[] for _ in range(size)]
    for (before, word), count in counts.pairs.items():
        place, share = ids[before], max(count - DISCOUNT, 0.0) / totals[ids[before]]
        if not word:
            last[place] += share
        elif count >= least:
            after[place].append((ids[word], float(np.log(share + left[place] * shares[ids[word]]))))
    pairs = [pair for own in after for pair in sorted(own)]
    tree = _Tree.of([(number, counts.sounds[word]) for number, word in enumerate(words)])
    return WordModel(
        words=tuple(counts.written[word].most_common(1)[0][0] for word in words),
        phones=tree.phones,
        node_phones=np.array(tree.node_phones, np.uint8),
        node_children=np.array(tree.children, np.uint8),
        node_endings=np.array([len(each) for each in tree.endings], np.uint8),
        ending_words=np.array([word for each in tree.endings for word, _ in each], np.int32),
        ending_scores=np.array([score for each in tree.endings for _, score in each], np.float16),
        unigrams=np.log(shares).astype(np.float16),
        backoffs=np.log(left).astype(np.float16),
        ends=np.log(last).astype(np.float16),
        pair_counts=np.array([len(own) for own in after], np.int32),
        pair_words=np.array([word for word, _ in pairs], np.int32),
        pair_scores=np.array([score for _, score in pairs], np.float16),
    )


@dataclass
class _Tree:
    """The lexicon by its phones, level by level: the children of a node lie in a row."""

    phones: tuple[str, ...]
    node_phones: list[int]
    children: list[int]
    endings: list[list[tuple[int, float]]]

    @classmethod
    def of(cls, words: Iterable[tuple[int, Counter[Sounds]]]) -> _Tree:
        """Of words with the ways in which they sound."""
        root = _Node()
        for word, sounds in words:
            total = sounds.total()
            for number, (phones, count) in enumerate(sounds.most_common(MOST_SOUNDS)):
                if number and count < RARE_SOUND * total:
                    break
                node = root
                for phone in phones:
                    node = node.children.setdefault(phone, _Node())
                node.endings.append((word, float(np.log(count / total))))
        made = cls((), [0], [], [])
        names: dict[str, int] = {}
        waiting = deque([root])
        while waiting:
            node = waiting.popleft()
            made.endings.append(node.endings)
            made.children.append(len(node.children))
            for phone in sorted(node.children):
                made.node_phones.append(names.setdefault(phone, len(names) + 1))
                waiting.append(node.children[phone])
        made.phones = tuple(names)
        return made


@dataclass
class _Node:
    children: dict[str, _Node] = field(default_factory=dict)
    endings: list[tuple[int, float]] = field(default_factory=list)


def texts(paths: Sequence[Path]) -> Iterator[str]:
    """The texts of JSON Lines files, whose rows have ``text``, or the lines of others. Raises: InputError."""
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").split("\n")
            if path.suffix == ".jsonl":
                lines = ["" + json.loads(line)["text"] for line in lines if line]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path}: missing, or no text; give JSON Lines with 'text', or plain lines") from None
        yield from lines


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train words``."""
    parser.add_argument("--text", nargs="+", type=Path, default=[Path("data/nano/text/aloud.jsonl")],
                        help="files of English texts (default: data/nano/text/aloud.jsonl)")  # fmt: skip
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/s2u-nano/export"), help="whose phones are read")
    parser.add_argument("--least", type=int, default=1, help="pairs that came less often are left out (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/words-nano"), help="the folder (default: %(default)s)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    from rich.progress import track

    from emova.checkpoint.registry import load_tokenizer
    from emova.core.writing import make_folder
    from emova.speech.tokenizer.protocol import HearsPhones

    tokenizer = load_tokenizer(arguments.tokenizer)
    if not isinstance(tokenizer, HearsPhones) or not tokenizer.reads_phones:
        raise InputError(f"{arguments.tokenizer}: it has no decoder of phones; take the export of its training")
    counts = Counts()
    for text in track(list(texts(arguments.text)), "texts", transient=True):
        counts.add(text, tokenizer.inventory)
    model = build(counts, arguments.least)
    make_folder(arguments.out)
    model.save(arguments.out / WORDS)
    size = (arguments.out / WORDS).stat().st_size / 2**20
    print(f"{arguments.out / WORDS}: {len(model.words):,} words, {len(model.pair_words):,} pairs, {size:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(run_module(register, "emova_train.words", (__doc__ or "").split("\n")[0]))
