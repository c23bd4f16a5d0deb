"""Writing down what is said while it is written, for the server and the demo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from emova.assistant import Assistant
from emova.reply.parser import PieceReader
from emova.session.long_speech import SpeechWindow
from emova.session.scheduler import Scheduler

_AT_ONCE = 25
"""Units between which other replies go on."""


def write_units_down(scheduler: Scheduler[Assistant], units: Sequence[int]) -> Iterator[str]:
    """Pieces of what ``units`` say; joined they equal ``Assistant.transcribe_units``, but for spaces around them.

    Raises:
        InputError: no place is free.
    """
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
