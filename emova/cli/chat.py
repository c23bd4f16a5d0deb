"""``emova chat``: one question, one spoken answer."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from emova.cli.common import (
    EXAMPLES,
    add_audio_limit,
    add_backend,
    add_common,
    add_style,
    assistant_config,
    check_audio,
    check_output,
    check_pipe,
    progress,
    read_style,
    read_text,
    show,
)
from emova.core.errors import InputError
from emova.core.io import read_once


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(
        parser,
        """
emova chat
emova chat --image photo.png --audio question.wav --out answer.wav
emova chat --image photo.png --text "What is in the picture?" --voice male
emova chat --audio question.wav --emotion happy --json""",
    )
    parser.add_argument("--image", metavar="FILE", help="a picture: png, jpeg, webp, gif or bmp; - reads a pipe")
    parser.add_argument(
        "--audio", metavar="FILE", help="a spoken question: wav, flac, mp3, ogg, m4a or webm; - reads a pipe"
    )
    parser.add_argument("--text", metavar="TEXT", help="a written question; - reads a pipe")
    parser.add_argument("--out", default="answer.wav", metavar="FILE", help="where the voice is written (%(default)s)")
    parser.add_argument(
        "--reply-format",
        metavar="FORMAT",
        help="json, or interleaved: the voice starts before the text is over (as the checkpoint says)",
    )
    add_style(parser, free=True)
    add_audio_limit(parser)
    add_backend(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask and answer."""
    image, audio, text = arguments.image, arguments.audio, arguments.text
    check_pipe(image, audio, text)
    if image is None and audio is None and text is None:
        image, audio = str(EXAMPLES / "photo.png"), str(EXAMPLES / "question.wav")
    if audio is None and text is None:
        raise InputError(f"{image}: no question about the picture; add --audio FILE or --text TEXT")
    read_style(arguments)
    if arguments.reply_format is not None:
        from emova.checkpoint.registry import REPLY_FORMATS

        REPLY_FORMATS.find(arguments.reply_format)
    check_output(arguments.out)
    text = None if text is None else read_text(text)
    question = None if audio is None else read_once(audio, "audio")
    picture = None if image is None else read_once(image, "picture")
    if question is not None:
        check_audio(question, arguments.max_seconds, reject_silence=True)
    if picture is not None:
        from emova.vision.image import load_image

        load_image(picture)
    with progress(arguments) as tell:
        tell(f"Loading {arguments.model}")
        from emova.assistant import Assistant
        from emova.events import AudioChunk, Done, TextDelta, TranscriptDelta

        assistant = Assistant.from_pretrained(
            arguments.model, config=assistant_config(arguments), reply_format=arguments.reply_format
        )
        tell("Listening" if audio else "Reading")
        heard = answer = ""
        seconds = 0.0
        chat = assistant.conversation(arguments.voice)
        for event in chat.stream(
            audio=question, image=picture, text=text, emotion=arguments.emotion, pitch=arguments.pitch
        ):
            if isinstance(event, TranscriptDelta):
                heard += event.text
                tell(f"Heard: {heard}")
            elif isinstance(event, TextDelta):
                answer += event.text
                tell(f"Answer: {answer}")
            elif isinstance(event, AudioChunk):
                seconds += len(event.samples) / event.sample_rate
                tell(f"Answer: {answer} ({seconds:.1f} s spoken)")
            elif isinstance(event, Done):
                reply = event.reply
        reply.save(arguments.out)
    seconds = len(reply.audio) / reply.sample_rate
    show(
        arguments,
        {
            "transcript": reply.transcript,
            "text": reply.text,
            "emotion": reply.emotion,
            "pitch": reply.pitch,
            "voice": reply.voice,
            "units": list(reply.units),
            "audio": arguments.out,
            "sample_rate": reply.sample_rate,
            "seconds": round(seconds, 3),
            "timings": {name: round(value, 3) for name, value in asdict(reply.timings).items()},
        },
        [
            f"Question: {reply.transcript}",
            f"Answer:   {reply.text}",
            f"Emotion:  {reply.emotion}",
            f"Pitch:    {reply.pitch}",
            f"Voice:    {reply.voice}, {seconds:.1f} s in {arguments.out}",
            f"Time:     {reply.timings.total:.1f} s, first sound after {reply.timings.first_audio:.1f} s",
        ],
    )
    return 0
