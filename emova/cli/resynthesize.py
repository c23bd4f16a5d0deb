"""``emova resynthesize``: speech to units and back to speech in another style."""

from __future__ import annotations

import argparse

from emova.cli.common import (
    add_audio_limit,
    add_common,
    add_style,
    check_audio,
    check_output,
    progress,
    read_style,
    show,
)
from emova.core.io import read_once


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(
        parser,
        """
emova resynthesize question.wav --voice male
emova resynthesize question.wav --emotion sad --pitch low --out sad.wav""",
    )
    parser.add_argument("audio", metavar="FILE", help="wav, flac, mp3, ogg, m4a or webm")
    parser.add_argument("--out", default="speech.wav", metavar="FILE", help="where it is written (%(default)s)")
    add_style(parser)
    add_audio_limit(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Say it again."""
    style = read_style(arguments)
    check_output(arguments.out)
    source = read_once(arguments.audio, "audio")
    check_audio(source, arguments.max_seconds, reject_silence=False)
    with progress(arguments) as tell:
        tell(f"Loading the speech parts of {arguments.model}")
        from emova.checkpoint.loading import check_units, load_speech_tokenizer, load_voice
        from emova.speech.audio import AudioLimits, save_wav
        from emova.speech.tokenizer.streaming import listen

        tokenizer, voice = load_speech_tokenizer(arguments.model), load_voice(arguments.model)
        check_units(tokenizer, voice, arguments.model)
        tell("Listening")
        units = listen(tokenizer, source, AudioLimits(max_seconds=arguments.max_seconds), False)
        tell("Speaking")
        samples = voice.synthesize(units, style)
        save_wav(arguments.out, samples, voice.sample_rate)
    seconds = len(samples) / voice.sample_rate
    show(
        arguments,
        {
            "style": style.key,
            "units": units,
            "audio": arguments.out,
            "sample_rate": voice.sample_rate,
            "seconds": round(seconds, 3),
        },
        [f"{style.gender}, {style.emotion}, {style.pitch} pitch: {seconds:.1f} s in {arguments.out}"],
    )
    return 0
