"""``emova transcribe``: speech to text."""

from __future__ import annotations

import argparse

from emova.cli.common import (
    add_audio_limit,
    add_backend,
    add_common,
    assistant_config,
    check_audio,
    check_pipe,
    progress,
    show,
)
from emova.core.io import read_once


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(
        parser,
        """
emova transcribe question.wav
emova transcribe --json first.flac second.mp3
sox question.flac -t wav - | emova transcribe -""",
    )
    parser.add_argument("audio", nargs="+", metavar="FILE", help="wav, flac, mp3, ogg, m4a or webm; - reads a pipe")
    add_audio_limit(parser)
    add_backend(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write down what is said."""
    check_pipe(*arguments.audio)
    sources = [read_once(path, "audio") for path in arguments.audio]
    for source in sources:
        check_audio(source, arguments.max_seconds, reject_silence=True)
    texts: list[str] = []
    with progress(arguments) as tell:
        tell(f"Loading {arguments.model}")
        from emova.assistant import Assistant

        assistant = Assistant.from_pretrained(arguments.model, config=assistant_config(arguments))
        for path, source in zip(arguments.audio, sources, strict=True):
            tell(f"Listening to {path}")
            texts.append(assistant.transcribe(source))
    files = [{"audio": path, "text": text} for path, text in zip(arguments.audio, texts, strict=True)]
    if len(texts) == 1:
        show(arguments, files[0], texts)
    else:
        show(arguments, {"files": files}, [f"{file['audio']}\t{file['text']}" for file in files])
    return 0
