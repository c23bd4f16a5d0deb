"""What a test may demand of a sentence that the shipped model hears.

Its cut depends on the clock where a turn ends by voice, and Whisper's int8 on the processor: a word may be heard
otherwise elsewhere. Who tests the order of a conversation compares by words; how well the model hears is told by
``emova eval nano``.
"""

from __future__ import annotations

from emova_eval.metrics.text import normalize_english, word_errors

SHIPPED = "How much is the cheese?"
"""What the example ``question.wav`` says."""
WRONG = 2


def understood(heard: str | None, said: str = SHIPPED) -> bool:
    """Whether at most two words of ``said`` are wrong in what was ``heard``, and its longest one stands there."""
    keyword = max(normalize_english(said).split(), key=len)
    return word_errors(said, heard or "").edits <= WRONG and keyword in normalize_english(heard or "").split()
