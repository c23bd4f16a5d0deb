"""What a second of a long reply costs, from its first to its last: units decoded and spoken, and memory. Against
speaking all of it again with every chunk, as GLM-4-Voice's demo does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from emova import Assistant
from emova.cli.main import run_program
from emova.decoding.protocol import Prompt
from emova.engine.decoder import EngineDecoder
from emova.speech.style import Style
from emova_bench.common import arguments, load, parse, report, resident_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@torch.inference_mode()
def one_reply(assistant: Assistant, seconds: int, style: torch.Tensor) -> list[tuple[float, float, int]]:
    """For each second of voice: s for its units, s for its sound, bytes of memory."""
    assert isinstance(assistant.decoder, EngineDecoder)
    engine, detokenizer = assistant.decoder.engine, assistant.voice.detokenizer
    rate, allowed = int(detokenizer.unit_rate), assistant.table.allowed_units(may_end=False)
    cache = engine.new_cache()
    prompt = Prompt(assistant.prompt([{"role": "user", "content": "Say this: one, two, three."}]).ids)
    hidden = engine.read(cache, engine.embed(Prompt((*prompt.ids, assistant.table.speech_start))))
    cache.speech = cache.length  # as the engine's writer notes it
    stream = detokenizer.streaming(style)
    rng = np.random.default_rng(0)
    costs = []
    for _ in range(seconds):
        started, units = time.perf_counter(), []
        for _ in range(rate):
            scores = engine.llama.scores(hidden, allowed)[0].numpy()
            # Gumbel noise: a draw, so that the reply does not fall into a loop.
            token = int(allowed[(scores + rng.gumbel(size=len(scores))).argmax()])
            units.append(int(assistant.table.unit_of[token]))
            hidden = engine.llama.forward([(cache, engine.llama.embed([token]))])
        written = time.perf_counter()
        stream.step(torch.tensor([units]))
        costs.append((written - started, time.perf_counter() - written, resident_bytes()))
    return costs


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("flat", __doc__ or "")
    parser.add_argument("--seconds", type=int, default=60)
    options = parse(parser, given, seconds=6)
    assistant = load(options)
    if not isinstance(assistant.decoder, EngineDecoder):
        raise SystemExit("the streaming engine cannot run this model")
    voice = assistant.voice
    rate = int(voice.detokenizer.unit_rate)
    length = min(options.seconds, (assistant.decoder.max_length - 64) // rate)
    style = voice.vector(Style())
    costs = np.median([one_reply(assistant, length, style) for _ in range(options.repeats)], axis=0)
    decode, speak, memory = costs.T
    total, seconds = decode + speak, np.arange(1, length + 1)
    again = []
    units = torch.randint(0, voice.detokenizer.codebook_size, (1, rate * length))
    with torch.inference_mode():
        for second in sorted({*range(1, length + 1, max(1, length // 8)), length}):
            started = time.perf_counter()
            voice.detokenizer.decode(units[:, : rate * second], style)
            again.append((second, time.perf_counter() - started))
    rows = [
        {
            "second": second,
            "decode s": float(decode[second - 1]),
            "voice s": float(speak[second - 1]),
            "together s": float(total[second - 1]),
            "voice, all again s": value,
            "memory MB": float(memory[second - 1]) / 1e6,
        }
        for second, value in again
    ]

    def rise(values: np.ndarray) -> float:
        """By which share of the first values the fitted line rises; the first second has no context and is left out."""
        if length < 3:
            return 0.0
        slope, start = np.polyfit(seconds[1:], values[1:], 1)
        return float(slope * (length - 1) / (start + slope))

    def draw(axes: Axes) -> None:
        axes.plot(seconds, total, label="decode and voice, streamed")
        axes.plot(seconds, speak, label="voice, streamed")
        axes.plot(*zip(*again, strict=True), "o-", label="voice, all again")
        axes.set_xlabel("second of the reply")
        axes.set_ylabel("compute for it, s")
        axes.set_yscale("log")
        axes.legend()

    report(
        "flat", options, rows, draw,
        rise_together=rise(total), rise_decode=rise(decode), rise_voice=rise(speak), rise_memory=rise(memory),
        real_time_factor=float(total.mean()),
    )  # fmt: skip


if __name__ == "__main__":
    run_program(main)
