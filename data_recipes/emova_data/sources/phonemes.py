"""Text to phones, by language: what a speech tokenizer learns from (``emova.speech.tokenizer.phones`` names them).

English by hibari's dictionary and rules, Mandarin as initials and finals with the tones that are said
(``emova_data.mandarin.g2p``), any other language by espeak-ng, whose sounds a tokenizer for it has to name in
``model.phones``.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable

from emova.core.errors import InputError
from emova.speech.tokenizer.phones import is_mark

Phonemizer = Callable[[str], list[str]]
AUTO, NONE, ENGLISH, CHINESE, ESPEAK = "auto", "none", "en", "zh", "espeak"
_ATTACHED = re.compile(r"[͜͡]")  # joins the two characters of an affricate


def phonemizer(name: str, language: str) -> Phonemizer | None:
    """What turns text to phones.

    Args:
        name: ``auto`` (by the language), ``none``, ``en``, ``zh``, or ``espeak:CODE`` with a voice of espeak-ng.
        language: of the text, a code such as en or de.

    Raises:
        InputError: the name is unknown, or the program behind it is not installed.
    """
    if name == AUTO:
        name = language if language in (ENGLISH, CHINESE) else f"{ESPEAK}:{language}"
    if name == NONE:
        return None
    if name == ENGLISH:
        try:
            from emova_data.nano.text.g2p import phones
        except ImportError:
            raise InputError("--g2p en: hibari-tts is not installed; pip install 'emova[data]'") from None
        return phones
    if name == CHINESE:
        from emova_data.mandarin import g2p

        return g2p.phones
    kind, _, voice = name.partition(":")
    if kind == ESPEAK and re.fullmatch(r"[a-zA-Z][\w-]*", voice):
        return _espeak(voice)
    raise InputError(f"--g2p {name[:40]}: unknown; give auto, none, en, zh or espeak:CODE, such as espeak:de")


@functools.cache
def _espeak(voice: str) -> Phonemizer:
    program = shutil.which("espeak-ng")
    if program is None:
        raise InputError(f"--g2p espeak:{voice}: espeak-ng is not installed; apt-get install espeak-ng, or give none")

    def phones(text: str) -> list[str]:
        said = subprocess.run(
            [program, "-q", "--ipa", "-v", voice, "--stdin"], input=text, capture_output=True, text=True, check=False
        )
        if said.returncode:
            raise InputError(f"--g2p espeak:{voice}: espeak-ng has no such voice; `espeak-ng --voices` lists them")
        return sounds(said.stdout)

    phones("a")  # an unknown voice is told at once
    return phones


def sounds(ipa: str) -> list[str]:
    """The sounds of a line of IPA: a character with what modifies it, without stress, length and spaces."""
    found: list[str] = []
    for character in _ATTACHED.sub("", unicodedata.normalize("NFC", ipa)):
        kind = unicodedata.category(character)
        if kind in ("Mn", "Lm") and not is_mark(character) and found:
            found[-1] += character
        elif not is_mark(character) and not kind.startswith(("C", "M", "S", "N")):
            found.append(character)
    return found
