"""``emova transcribe``: speech to text."""

from __future__ import annotations

import argparse

from emova.cli.common import add_audio_limit, add_common, assistant_config, check_audio, progress, show


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(
        parser,
        """
emova transcribe question.wav
emova transcribe --json first.flac second.mp3""",
    )
    parser.add_argument("audio", nargs="+", metavar="FILE", help="wav, flac, mp3, ogg, m4a or webm")
    add_audio_limit(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write down what is said."""
    for path in arguments.audio:
        check_audio(path, arguments.max_seconds, reject_silence=True)
    texts: list[str] = []
    with progress(arguments) as tell:
        tell(f"Loading {arguments.model}")
        from emova.assistant import Assistant

        assistant = Assistant.from_pretrained(arguments.model, config=assistant_config(arguments))
        for path in arguments.audio:
            tell(f"Listening to {path}")
            texts.append(assistant.transcribe(path))
    files = [{"audio": path, "text": text} for path, text in zip(arguments.audio, texts, strict=True)]
    if len(texts) == 1:
        show(arguments, files[0], texts)
    else:
        show(arguments, {"files": files}, [f"{file['audio']}\t{file['text']}" for file in files])
    return 0
