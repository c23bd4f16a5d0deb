"""The cost of a second of voice over a long reply: streamed with bounded context against speaking it all again."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.common import arguments, load, report
from emova.style import Style


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args()
    voice = load(options).voice
    style = voice.vector(Style())
    size = voice.detokenizer.codebook_size
    units = torch.randint(0, size, (1, 25 * options.seconds), generator=torch.Generator().manual_seed(0))
    streamed: list[list[float]] = []
    with torch.inference_mode():
        for _ in range(options.repeats):
            stream, costs = voice.detokenizer.streaming(style), []
            for chunk in units.split(25, dim=1):
                started = time.perf_counter()
                stream.step(chunk)
                costs.append(time.perf_counter() - started)
            streamed.append(costs)
        again = []
        for second in range(1, options.seconds + 1, max(1, options.seconds // 12)):
            started = time.perf_counter()
            voice.detokenizer.decode(units[:, : 25 * second], style)
            again.append((second, time.perf_counter() - started))
    cost = np.median(streamed, axis=0)
    seconds = np.arange(1, len(cost) + 1)
    # The first second has no context yet.
    slope, start = np.polyfit(seconds[1:], cost[1:], 1)
    rows = [{"second": second, "streamed s": float(cost[second - 1]), "all again s": value} for second, value in again]

    def draw(axes: Any) -> None:
        axes.plot(seconds, cost, label="streamed")
        axes.plot(*zip(*again, strict=True), "o-", label="all again")
        axes.set_xlabel("second of the reply")
        axes.set_ylabel("compute for it, s")
        axes.legend()

    report("flat", options, rows, draw, rise_over_reply=float(slope * options.seconds / start))


if __name__ == "__main__":
    main()
