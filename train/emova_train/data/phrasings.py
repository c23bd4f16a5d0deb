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


def draw_phrase(phrasings: Sequence[str], rng: np.random.Generator) -> str:
    """One of the phrasings."""
    if rng.random() < FIRST_SHARE:
        return phrasings[0]
    return phrasings[int(rng.integers(1, len(phrasings)))]
