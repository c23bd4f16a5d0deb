"""From the end of speech to the first sound, as the waterfall of GLM-4-Voice §3.3: the rest of the units, what is
still to be read, the tokens up to the first chunk, its sound. Against listening to the whole question at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from emova.cli.main import run_program
from emova.session.scheduler import Scheduler
from emova.session.session import Session
from emova_bench.common import arguments, first_sound, load, median, parse, question, report, whole_reply

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = ("tokenize", "prefill", "decode", "speech")
CHUNK = 640  # samples, 40 ms: as a microphone hands them over


def waterfall(session: Session, speech: np.ndarray, image: Image.Image | None) -> dict[str, float]:
    """Speak, ask, and say what the time to the first sound was spent on, in ms."""
    if image is not None:
        session.show(image)
    for start in range(0, len(speech), CHUNK):
        session.hear(speech[start : start + CHUNK])
    timings = whole_reply(session.ask()).timings
    decode = timings.first_audio - timings.listen - timings.prefill - timings.first_speak
    steps = (timings.listen, timings.prefill, decode, timings.first_speak)
    return {"first": 1000 * timings.first_audio, **{n: 1000 * s for n, s in zip(STEPS, steps, strict=True)}}


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("latency", __doc__ or "")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[1.0, 3.0, 10.0, 30.0, 60.0], help="lengths of questions"
    )
    options = parse(parser, given, seconds=[1.0])
    assistant = load(options)
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
