"""``emova tokenize``: speech to units."""

from __future__ import annotations

import argparse

from emova.cli.common import add_audio_limit, add_common, check_audio, progress, show
from emova.core.io import read_once


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(
        parser,
        """
emova tokenize question.wav
emova tokenize --json question.wav > units.json""",
    )
    parser.add_argument("audio", metavar="FILE", help="wav, flac, mp3, ogg, m4a or webm")
    add_audio_limit(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the units."""
    source = read_once(arguments.audio, "audio")
    check_audio(source, arguments.max_seconds, reject_silence=False)
    with progress(arguments) as tell:
        tell(f"Loading the speech tokenizer of {arguments.model}")
        from emova.checkpoint.loading import load_speech_tokenizer
        from emova.speech.audio import AudioLimits
        from emova.speech.tokenizer.streaming import listen

        tokenizer = load_speech_tokenizer(arguments.model)
        tell("Listening")
        units = listen(tokenizer, source, AudioLimits(max_seconds=arguments.max_seconds), False)
    result = {"audio": arguments.audio, "units": units, "unit_rate": tokenizer.unit_rate}
    show(arguments, result, [" ".join(map(str, units))])
    return 0
