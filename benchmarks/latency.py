"""From the end of speech to the first sound: streamed listening against listening to the whole question at the end."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.common import arguments, load, median, question, report
from emova.results import AudioChunk
from emova.streaming.events import Failed
from emova.streaming.hub import Hub


def first_sound(events: Any) -> None:
    """Read up to the first sound."""
    for event in events:
        if isinstance(event, Failed):
            raise SystemExit(event.message)
        if isinstance(event, AudioChunk):
            return


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 3.0, 10.0, 30.0], help="lengths of questions")
    options = parser.parse_args()
    assistant = load(options)
    picture = np.full((224, 224, 3), 128, dtype=np.uint8)
    from PIL import Image

    image = Image.fromarray(picture)
    rows: list[dict[str, Any]] = []
    for seconds in options.seconds:
        speech = question(seconds)
        for with_image in (False, True):
            for turn in (1, 2):
                waits: list[float] = []
                whole: list[float] = []
                for _ in range(options.repeats):
                    session = Hub(assistant).open()
                    chat = assistant.conversation()
                    if turn == 2:
                        list(session.ask("Hello."))
                        chat.chat(text="Hello.")
                    if with_image:
                        session.show(image)
                    for start in range(0, len(speech), 640):
                        session.hear(speech[start : start + 640])
                    started = time.perf_counter()
                    first_sound(session.ask())
                    waits.append(time.perf_counter() - started)
                    session.close()
                    started = time.perf_counter()
                    first_sound(chat.stream(audio=speech, image=image if with_image else None))
                    whole.append(time.perf_counter() - started)
                rows.append(
                    {
                        "speech s": seconds,
                        "picture": with_image,
                        "turn": turn,
                        "median ms": 1000 * median(waits),
                        "p95 ms": 1000 * float(np.percentile(waits, 95)),
                        "listening at the end ms": 1000 * median(whole),
                    }
                )

    def draw(axes: Any) -> None:
        chosen = [row for row in rows if not row["picture"] and row["turn"] == 1]
        for column in ("median ms", "listening at the end ms"):
            axes.plot([row["speech s"] for row in chosen], [row[column] for row in chosen], "o-", label=column)
        axes.set_xlabel("speech heard, s")
        axes.set_ylabel("end of speech to first sound, ms")
        axes.legend()

    report("latency", options, rows, draw)


if __name__ == "__main__":
    main()
