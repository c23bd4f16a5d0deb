"""Writing down what is said while it is written, for the server and the demo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from emova.assistant import Assistant
from emova.reply.parser import PieceReader
from emova.session.long_speech import SpeechWindow
from emova.session.scheduler import Scheduler
from emova.session.transcripts import better_transcript

_AT_ONCE = 25
"""Units between which other replies go on."""


def write_units_down(scheduler: Scheduler[Assistant], units: Sequence[int]) -> Iterator[str]:
    """Pieces of what ``units`` say; joined they equal ``Assistant.transcribe_units``, but for spaces around them.

    They come as they are written, or where the checkpoint has words to choose from, all at once when they are chosen.

    Raises:
        InputError: no place is free.
    """
    assistant = scheduler.assistant
    written = _written(scheduler, units)
    if assistant.word_search is None:
        yield from written
    else:
        yield better_transcript(assistant, units, "".join(written).strip())


def _written(scheduler: Scheduler[Assistant], units: Sequence[int]) -> Iterator[str]:
    """What the language model writes down."""
    assistant, window = scheduler.assistant, SpeechWindow(scheduler.assistant)
    for start in range(0, len(units), _AT_ONCE):
        told = len(window.lead)
        with scheduler.lock:
            window.step(units[start : start + _AT_ONCE])
        if len(window.lead) > told:
            yield window.lead[told:]
    reader = PieceReader(assistant.table)
    for token in scheduler.write(*assistant.transcribing(window.units)):
        for piece in reader.read(token):
            if isinstance(piece, str) and piece:
                yield piece
