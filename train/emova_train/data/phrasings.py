"""How the user asks for what every model must be able to do.

The first of each is what the assistant itself uses; the others keep the model from depending on one wording.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emova.reply.format import SPEAK_PROMPT, TRANSCRIBE_PROMPT

TRANSCRIBE_PHRASINGS = (
    TRANSCRIBE_PROMPT,
    "What is said here?",
    "Write what you hear.",
    "Please transcribe the speech.",
    "Turn this speech into text.",
)
SPEAK_PHRASINGS = (SPEAK_PROMPT, "Read this aloud: ", "Speak this: ", "Please say: ", "Turn this text into speech: ")
TRANSCRIBE_PHRASINGS_ZH = (
    "写下你听到的话。",
    "这段话说了什么？",
    "请把这段语音转成文字。",
    "请听写。",
    TRANSCRIBE_PROMPT,
)
SPEAK_PHRASINGS_ZH = ("请说：", "请朗读：", "读出下面的话：", "把这句话念出来：", SPEAK_PROMPT)
"""Of what is Chinese; the assistant's own, which is English, is among them."""
CAPTION_PHRASINGS = (
    "Describe the picture.",
    "What does the picture show?",
    "Tell me all about this picture.",
    "What is in the image?",
    "Please describe what you see in detail.",
)
REORDERED_PHRASING = "Describe the picture in any order."
FIRST_SHARE = 0.6
"""How often the first phrasing is used."""


def is_chinese(words: str) -> bool:
    """Whether a fifth or more of the letters are Han characters."""
    letters = [character for character in words if character.isalpha()]
    return 5 * sum("\u3400" <= character <= "\u9fff" for character in letters) >= len(letters) > 0


def transcribe_phrasings(words: str) -> Sequence[str]:
    """In the language of the words that are said."""
    return TRANSCRIBE_PHRASINGS_ZH if is_chinese(words) else TRANSCRIBE_PHRASINGS


def speak_phrasings(words: str) -> Sequence[str]:
    """In the language of the words that are to be said."""
    return SPEAK_PHRASINGS_ZH if is_chinese(words) else SPEAK_PHRASINGS


def draw_phrase(phrasings: Sequence[str], rng: np.random.Generator) -> str:
    """One of the phrasings."""
    if rng.random() < FIRST_SHARE:
        return phrasings[0]
    return phrasings[int(rng.integers(1, len(phrasings)))]
