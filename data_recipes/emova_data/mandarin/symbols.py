"""Mandarin text to the symbols that Kokoro's voices are told, from the same syllables that the labels come from.

So what a tokenizer is taught is what was said: the tones after sandhi, erhua, numbers in words.
"""

from __future__ import annotations

from emova.core.errors import InputError
from emova_data.mandarin.g2p import Syllable, runs, words

_MARKS = str.maketrans({"，": ", ", "、": ", ", "。": ". ", "！": "! ", "？": "? ", "：": ": ", "；": "; ", "…": "…"})
_TONES = (("˧˩˧", "↓"), ("˧˥", "↗"), ("˥˩", "↘"), ("˥", "→"))
_APICAL = (("ɹ̩", "ɨ"), ("ɻ̩", "ɨ"))
_UNSAID = chr(815)
_COLOURED = "ɚ"


def pinyin(syllable: Syllable) -> str:
    """With its tone as a digit, in the spelling that misaki reads: ``zhi1``, ``yuan2``, ``lü4``."""
    final = syllable.final
    final = {"ii": "i", "iii": "i", "iu": "iu", "ui": "ui", "un": "un", "ueng": "ueng"}.get(final, final)
    if syllable.initial:
        umlaut = final.startswith("v") and syllable.initial in ("n", "l")
        final = final.replace("v", "ü" if umlaut else "u", 1) if final.startswith("v") else final
        return f"{syllable.initial}{final}{syllable.tone}"
    if final.startswith("v"):
        return f"yu{final[1:]}{syllable.tone}"
    if final.startswith("i"):
        rest = {"i": "yi", "in": "yin", "ing": "ying", "iu": "you"}.get(final) or f"y{final[1:]}"
        return f"{rest}{syllable.tone}"
    if final.startswith("u"):
        rest = {"u": "wu", "ui": "wei", "un": "wen"}.get(final) or f"w{final[1:]}"
        return f"{rest}{syllable.tone}"
    return f"{final}{syllable.tone}"


def _symbols(syllable: Syllable) -> str:
    from misaki.transcription import pinyin_to_ipa

    said = "".join(pinyin_to_ipa(pinyin(syllable))[0])
    for before, after in (*_TONES, *_APICAL):
        said = said.replace(before, after)
    return said.replace(_UNSAID, "") + (_COLOURED if syllable.er else "")


def symbols(text: str) -> str:
    """Kokoro's symbols of ``text``, English words in it by the English dictionary.

    Raises:
        InputError: a package is missing.
    """
    try:
        import misaki.transcription  # noqa: F401
    except ImportError as error:
        raise InputError(f"Mandarin voices: {error.name} is not installed; pip install 'emova[data]'") from None
    told = ""
    for kind, piece in runs(text):
        if kind == "han":
            told += " ".join("".join(_symbols(each) for each in made) for _, made in words(piece))
        elif kind == "latin":
            from emova_data.nano.text.g2p import phonemes

            told += f" {phonemes(piece.strip())} "
        else:
            told += piece.translate(_MARKS)
    return " ".join(told.split())
