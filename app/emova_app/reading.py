"""Reading a text aloud while its units are written, for the server and the demo.

Shape letters: T samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from emova.assistant import Assistant
from emova.session.scheduler import Scheduler
from emova.session.takes import read_sentence
from emova.speech.style import Style


def read_aloud(scheduler: Scheduler[Assistant], text: str, style: Style) -> Iterator[np.ndarray]:
    """Samples ``[T]`` of ``text`` as they are made; joined they equal ``Assistant.speak``. Raises: InputError."""
    assistant = scheduler.assistant
    speaking = assistant.voice.start(style)
    for sentence in assistant.reading(text):
        for unit in read_sentence(assistant, sentence, scheduler.write_aloud, scheduler.lock):
            samples = speaking.step([unit])
            if len(samples):
                yield samples
    yield speaking.finish()
