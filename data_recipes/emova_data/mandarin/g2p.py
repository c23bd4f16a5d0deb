"""Mandarin text to syllables and phones: pypinyin by words, tone sandhi by misaki's rules, erhua, English in between.

Words are jieba's: a polyphone is read as its word has it (银行, 行走), and the sandhi of 一, 不 and third tones depends
on where words end. Word-final 儿 colours the syllable before it (一会儿), but for words in which it is one (女儿).
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from emova.core.errors import InputError
from emova.speech.tokenizer.phones import MANDARIN
from emova_data.mandarin.normalise import normalise

_RUNS = re.compile(r"(?P<han>[㐀-鿿]+)|(?P<latin>[A-Za-z][A-Za-z' -]*)|(?P<rest>[^㐀-鿿A-Za-z]+)")
_SPELLINGS = {"iou": "iu", "uei": "ui", "uen": "un", "ê": "ei", "io": "o", "n": "en", "m": "en", "ng": "en", "": "en"}
_AFTER_SIBILANTS = {**dict.fromkeys("zcs", "ii"), **dict.fromkeys(("zh", "ch", "sh", "r"), "iii")}
_SYLLABLE_ER = (
    "女儿", "男儿", "婴儿", "幼儿", "孤儿", "少儿", "胎儿", "健儿", "患儿", "孙儿", "侄儿", "妻儿", "弃儿", "孩儿",
    "宠儿", "托儿", "混血儿",
    "婴幼儿", "新生儿", "早产儿", "低能儿", "连体儿", "流浪儿", "为儿", "护儿", "育儿",
)  # fmt: skip
_FIGURES = tuple("零一二三四五六七八九")
# Words that jieba and pypinyin's phrases leave to the commonest reading of their character.
_READINGS = {"地": (("d", "e5"),), "都": (("d", "ou1"),), "得": (("d", "e5"),)}
_ADVERBIAL = {"地": ("uv",), "得": ("ud",)}


@dataclass(frozen=True)
class Syllable:
    """An initial (or none), a final without its tone, the tone 1 to 5 (5: neutral), and whether 儿 colours its end."""

    initial: str
    final: str
    tone: int
    er: bool = False

    @property
    def phones(self) -> list[str]:
        """By the names of ``emova.speech.tokenizer.phones``; a coloured end is a neutral ``er``."""
        made = [f"{MANDARIN}{self.initial}"] if self.initial else []
        return [*made, f"{MANDARIN}{self.final}{self.tone}", *([f"{MANDARIN}er5"] if self.er else [])]


class _Sandhi(Protocol):
    def pre_merge_for_modify(self, words: list[tuple[str, str]]) -> Sequence[Sequence[str]]: ...

    def modified_tone(self, word: str, pos: str, finals: list[str]) -> list[str]: ...


class _Pair(Protocol):
    word: str
    flag: str


class _Cutter(Protocol):
    def lcut(self, text: str) -> list[_Pair]: ...


@functools.lru_cache(maxsize=1)
def _tools() -> tuple[_Cutter, _Sandhi]:
    try:
        import jieba
        import jieba.posseg
        from misaki.tone_sandhi import ToneSandhi
    except ImportError as error:
        raise InputError(f"--g2p zh: {error.name} is not installed; pip install 'emova[data]'") from None
    jieba.setLogLevel(logging.WARNING)
    return jieba.posseg, ToneSandhi()


def _raw(word: str, pos: str) -> tuple[list[str], list[str]]:
    from pypinyin import Style, lazy_pinyin

    if word in _READINGS and pos in _ADVERBIAL.get(word, (pos,)):
        read = _READINGS[word]
        return [initial for initial, _ in read], [final for _, final in read]
    initials = lazy_pinyin(word, style=Style.INITIALS, strict=True)
    finals = lazy_pinyin(word, style=Style.FINALS_TONE3, strict=True, neutral_tone_with_five=True)
    return initials, [final if final[-1:].isdigit() else f"{final}5" for final in finals]


def words(text: str) -> Iterator[tuple[str, list[Syllable]]]:
    """The words of ``text``, Han characters alone, with their syllables. Raises: InputError: a package is missing."""
    cutter, sandhi = _tools()
    pairs = sandhi.pre_merge_for_modify([(pair.word, pair.flag) for pair in cutter.lcut(text)])
    for word, pos in pairs:
        initials, finals = _raw(word, pos)
        assert len(initials) == len(finals) == len(word), word
        finals = sandhi.modified_tone(word, pos, finals)
        made: list[Syllable] = []
        for place, (initial, final) in enumerate(zip(initials, finals, strict=True)):
            sound, tone = final[:-1], int(final[-1])
            if sound == "i":
                sound = _AFTER_SIBILANTS.get(initial, sound)
            sound = _SPELLINGS.get(sound, sound).replace("ü", "v")
            if word[place] == "一" and _is_digit(word, place):
                tone = 1
            last = place == len(word) - 1
            if word[place] == "儿" and last and made and word[-2:] not in _SYLLABLE_ER and word not in _SYLLABLE_ER:
                made[-1] = replace(made[-1], er=True)
            else:
                made.append(Syllable(initial, sound, 2 if sound == "er" and word[place] == "儿" else tone))
        yield word, _third_tones(made)


def _is_digit(word: str, place: int) -> bool:
    """Whether the 一 at ``place`` is read out as a figure: beside others, behind 十, before the point of a decimal."""
    before, after = word[:place][-1:], word[place + 1 :]
    decimal = after[:1] == "点" and after[1:2] in _FIGURES
    return before in (*_FIGURES, "十") or after[:1] in _FIGURES or bool(decimal and after[1:2])


def _third_tones(made: list[Syllable]) -> list[Syllable]:
    """Third tones in a row inside a word that the rules left: all but the last rise."""
    return [
        replace(here, tone=2) if here.tone == 3 and place + 1 < len(made) and made[place + 1].tone == 3 else here
        for place, here in enumerate(made)
    ]


def phones(text: str) -> list[str]:
    """The phones of ``text``: numbers are read as Chinese, Latin words as English; punctuation has none.

    Raises:
        InputError: a package is missing.
    """
    found: list[str] = []
    for run in _RUNS.finditer(normalise(text)):
        if run["han"]:
            found += [phone for _, made in words(run["han"]) for syllable in made for phone in syllable.phones]
        elif run["latin"]:
            from emova_data.nano.text import g2p

            found += g2p.phones(run["latin"].strip())
    return found


def runs(text: str) -> Iterator[tuple[str, str]]:
    """The normalised text in pieces of one kind: ``han``, ``latin`` or ``rest``."""
    for run in _RUNS.finditer(normalise(text)):
        kind = run.lastgroup
        assert kind is not None
        yield kind, run[0]
