"""``emova speak``: text to speech in one of 24 styles."""

from __future__ import annotations

import argparse

from emova.cli.common import (
    add_backend,
    add_common,
    add_style,
    assistant_config,
    check_output,
    progress,
    read_style,
    read_text,
    show,
)
from emova.core.errors import InputError


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(
        parser,
        """
emova speak "The train is on time."
emova speak --emotion sad --pitch low --voice female "I lost my keys." --out keys.wav""",
    )
    parser.add_argument("text", metavar="TEXT", help="what to say; - reads a pipe")
    parser.add_argument("--out", default="speech.wav", metavar="FILE", help="where it is written (%(default)s)")
    add_style(parser)
    add_backend(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read the text aloud."""
    style = read_style(arguments)
    text = read_text(arguments.text)
    if not text.strip():
        raise InputError("the text: it is empty; write what to say")
    check_output(arguments.out)
    with progress(arguments) as tell:
        tell(f"Loading {arguments.model}")
        from emova.assistant import Assistant

        assistant = Assistant.from_pretrained(arguments.model, config=assistant_config(arguments))
        tell("Speaking")
        speech = assistant.speak(text, style)
        speech.save(arguments.out)
    seconds = len(speech.audio) / speech.sample_rate
    show(
        arguments,
        {
            "text": text,
            "style": style.key,
            "units": list(speech.units),
            "audio": arguments.out,
            "sample_rate": speech.sample_rate,
            "seconds": round(seconds, 3),
        },
        [f"{style.gender}, {style.emotion}, {style.pitch} pitch: {seconds:.1f} s in {arguments.out}"],
    )
    return 0
