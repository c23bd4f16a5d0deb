"""Recordings of a real person: Asterisk's English prompts (one woman, 16 kHz G.722), labelled by Whisper base.

The package holds no transcripts, so the labels are the recogniser's; clips where it hears nothing are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from emova.core.errors import InputError
from emova_data.nano.speech.labelled import (
    MIN_SECONDS,
    Label,
    Recordings,
    WhisperLabels,
    at_human_rate,
    circles,
    label_clips,
)

CLIPS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")


def decode(name: str) -> np.ndarray:
    """Samples [T] float32 at 16 kHz of a G.722 file below ``CLIPS``."""
    import av

    with av.open(str(CLIPS / name), format="g722") as container:
        frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768.0 if frames else np.zeros(0, np.float32)


RECORDINGS = Recordings(set="real", voice="asterisk/allison", family="asterisk", gender="female", decode=decode)


def label_real(
    sources: Path, cache: Path, threads: int = 2, report: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Label]:
    """The labels of the usable clips: name -> {text, score, seconds}; ``cache`` holds all that was heard.

    Raises:
        InputError: the clips or the recogniser are missing.
    """
    names = sorted(str(path.relative_to(CLIPS)) for path in CLIPS.rglob("*.g722")) if CLIPS.is_dir() else []
    if not names:
        raise InputError(f"{CLIPS}: no recordings; install Debian's asterisk-core-sounds-en-g722 (`emova data list`)")
    labels = label_clips(names, decode, lambda: WhisperLabels(sources / "whisper-base", threads), cache, report=report)
    return {name: entry for name, entry in labels.items() if _usable(entry)}


def _usable(entry: Label) -> bool:
    """Long enough, words in it at a human rate, not silence that was guessed at."""
    return (
        entry["seconds"] >= MIN_SECONDS
        and entry["score"] > -1.1
        and not entry["name"].startswith("silence/")
        and not circles(entry["text"], 8)
        and at_human_rate(entry["text"], entry["seconds"])
    )
