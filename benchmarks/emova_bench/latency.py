"""From the end of speech to the first sound, as the waterfall of GLM-4-Voice §3.3: the rest of the units, what is
still to be read, the tokens up to the first chunk, its sound. Against listening to the whole question at the end.
Beside it the processors' time, of hearing and up to the first sound: it holds where other programs run, too.

With ``--other-codec`` another tokenizer and decoder stand in the place of the checkpoint's: those that are named, else
parts with the shapes of ``vq/nano`` and ``flow/nano_blocks`` and random weights. The model has not learnt their units,
so what it says means nothing; how many tokens come before the first sound is the reply format's (``--ratio``) and the
decoder's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from emova.assistant import Assistant, AssistantConfig
from emova.checkpoint.loading import load_parts
from emova.cli.main import run_program
from emova.core.errors import InputError
from emova.reply.guard import ReplyGuard
from emova.reply.interleaved import InterleavedReply, Ratio
from emova.session.scheduler import Scheduler
from emova.session.session import Session
from emova.speech.style import StylePrototypes
from emova.speech.voice import Voice
from emova_bench.codec import parts as codec_parts
from emova_bench.common import arguments, first_sound, load, median, parse, question, report, whole_reply

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = ("tokenize", "prefill", "decode", "speech")
CHUNK = 640  # samples, 40 ms: as a microphone hands them over


def waterfall(session: Session, speech: np.ndarray, image: Image.Image | None) -> dict[str, float]:
    """Speak, ask, and say what the time to the first sound was spent on, in ms."""
    if image is not None:
        session.show(image)
    clock = [time.process_time()]
    for start in range(0, len(speech), CHUNK):
        session.hear(speech[start : start + CHUNK])
    clock.append(time.process_time())
    events = session.ask()
    first_sound(events)
    clock.append(time.process_time())
    timings = whole_reply(events).timings
    hearing, sounding = np.diff(clock)
    decode = timings.first_audio - timings.listen - timings.prefill - timings.first_speak
    steps = (timings.listen, timings.prefill, decode, timings.first_speak)
    spent = {"hearing": 1000 * float(hearing), "sounding": 1000 * float(sounding)}
    return {"first": 1000 * timings.first_audio, **spent, **{n: 1000 * s for n, s in zip(STEPS, steps, strict=True)}}


def with_codec(name: str, tokenizer: str, detokenizer: str, ratio: Ratio) -> Assistant:
    """A checkpoint's model between other ears and another voice, whose styles are random vectors.

    Raises:
        InputError: the codec does not fit together, or the vocabulary has another number of units.
    """
    parts = load_parts(name)
    ears, decoder = codec_parts(tokenizer, detokenizer)
    known = parts.processor.token_ids.codebook_size
    found = (ears.codebook_size, decoder.codebook_size, ears.unit_rate, decoder.unit_rate)
    if found != (known, known, ears.unit_rate, ears.unit_rate):
        raise InputError(
            f"--other-codec: {found[0]} units heard and {found[1]} said, {found[2]:g} and {found[3]:g} a second; give "
            f"two parts of one codec, with the {known} units of {name}"
        )
    generator = torch.Generator().manual_seed(0)
    styles = parts.voice.styles
    vectors = {style.key: torch.randn(decoder.style_size, generator=generator) for style in styles}
    parts.processor.attach_speech_tokenizer(ears)
    parts = replace(parts, speech_tokenizer=ears, voice=Voice(decoder, StylePrototypes(vectors, styles)))
    config = AssistantConfig(reply_guard=ReplyGuard(least_units=0), admit_doubt=False)  # it may say what it likes
    return Assistant(parts, config, InterleavedReply(ratio, styles))


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("latency", __doc__ or "")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[1.0, 3.0, 10.0, 30.0, 60.0], help="lengths of questions"
    )
    parser.add_argument("--other-codec", action="store_true", help="other parts than the checkpoint's")
    parser.add_argument("--tokenizer", default="", help="of it; the shapes of vq/nano if not given")
    parser.add_argument("--detokenizer", default="", help="of it; the shapes of flow/nano_blocks if not given")
    parser.add_argument(
        "--ratio", type=int, nargs=2, default=[13, 26], metavar=("TEXT", "UNITS"),
        help="text tokens and units in turns, with another codec (default: GLM-4-Voice's 13 26)",
    )  # fmt: skip
    options = parse(parser, given, seconds=[1.0])
    other = options.other_codec or options.tokenizer or options.detokenizer
    assistant = (
        with_codec(options.checkpoint, options.tokenizer, options.detokenizer, Ratio(*options.ratio))
        if other else load(options)
    )  # fmt: skip
    image = Image.fromarray(np.full((224, 224, 3), 128, dtype=np.uint8))
    rows: list[dict[str, Any]] = []
    scheduler = Scheduler(assistant)
    for seconds in options.seconds:
        speech = question(seconds)
        for picture in (None, image):
            taken: dict[int, list[dict[str, float]]] = {1: [], 2: []}
            whole: list[float] = []
            warm = scheduler.open()
            waterfall(warm, speech, picture)
            warm.close()
            for _ in range(options.repeats):
                session = scheduler.open()
                taken[1].append(waterfall(session, speech, picture))
                taken[2].append(waterfall(session, speech, None))  # the picture, if any, is remembered
                session.close()
                started = time.perf_counter()
                first_sound(assistant.conversation().stream(audio=speech, image=picture))
                whole.append(1000 * (time.perf_counter() - started))
            for turn, found in taken.items():
                firsts = [each["first"] for each in found]
                rows.append(
                    {
                        "speech s": seconds,
                        "picture": picture is not None,
                        "turn": turn,
                        "median ms": median(firsts),
                        "p95 ms": float(np.percentile(firsts, 95)),
                        **{f"T_{step}": median([each[step] for each in found]) for step in STEPS},
                        "all at the end ms": median(whole) if turn == 1 else None,
                        "CPU ms": median([each["sounding"] for each in found]),
                        "CPU ms hearing": median([each["hearing"] for each in found]),
                    }
                )

    def draw(axes: Axes) -> None:
        names = [f"{row['speech s']:g} s{', picture' if row['picture'] else ''}, turn {row['turn']}" for row in rows]
        left = np.zeros(len(rows))
        for step in STEPS:
            widths = np.asarray([row[f"T_{step}"] for row in rows])
            axes.barh(names, widths, left=left, label=f"T_{step}")
            left += widths
        axes.axvline(150, linestyle=":", color="black")
        axes.set_xlabel("ms from the end of speech to the first sound")
        axes.legend()

    report("latency", options, rows, draw, median_ms=median([row["median ms"] for row in rows]))


if __name__ == "__main__":
    run_program(main)
