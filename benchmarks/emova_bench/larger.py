"""A larger language model with our voice, many sessions at once: what a second of speech of each costs, where a session
is in real time below 1. The model has random weights: its shape is what is timed, what it says has no meaning."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from emova import Assistant
from emova.cli.main import run_program
from emova.engine.engine import Engine, EngineConfig
from emova.model import EmovaForConditionalGeneration
from emova.speech.style import Style
from emova.speech.voice import ChunkPlan
from emova_bench.common import arguments, layers, load, median, parse, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHAPE = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 9, "num_attention_heads": 8}
"""Some 30 million weights that a step reads, the whole head included; the vocabulary is nano's."""
CONFIGS = {"float16": EngineConfig(), "int8": EngineConfig(int8=True), "int4": EngineConfig(int4=True)}


def grown(assistant: Assistant) -> EmovaForConditionalGeneration:
    """A model of ``SHAPE`` over the assistant's vocabulary, its weights random float16 numbers."""
    from copy import deepcopy

    config = deepcopy(assistant.parts.model.config)
    for name, value in SHAPE.items():
        setattr(config.text_config, name, value)
    config.projector_config["output_width"] = SHAPE["hidden_size"]
    torch.manual_seed(0)
    return EmovaForConditionalGeneration(config).eval().half().float()


@torch.inference_mode()
def seconds_of(assistant: Assistant, engine: Engine, count: int, read: int, length: int) -> tuple[float, float]:
    """What ``length`` seconds of speech of ``count`` sessions cost in decoding and voice, after ``read`` positions."""
    units, written = assistant.table.allowed_units(may_end=False), int(length * assistant.voice.detokenizer.unit_rate)
    caches = [engine.new_cache(read + written) for _ in range(count)]
    for cache in caches:
        engine.read(cache, engine.llama.embed([7] * read))
    voices = [assistant.voice.start(Style(), ChunkPlan(), lambda: 0.0) for _ in range(count)]
    chosen, codes = [int(units[0])] * count, np.arange(len(units))
    decoding = voice = 0.0
    for _ in range(written):
        started = time.perf_counter()
        new = [engine.llama.embed([unit]) for unit in chosen]
        hidden = engine.llama.forward(list(zip(caches, new, strict=True)))
        best = engine.llama.scores(hidden, units).argmax(dim=1).tolist()
        chosen = [int(units[place]) for place in best]
        decoded = time.perf_counter()
        for speaking, place in zip(voices, best, strict=True):
            speaking.step([int(codes[place])])
        decoding, voice = decoding + decoded - started, voice + time.perf_counter() - decoded
    return decoding, voice


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("larger", __doc__ or "")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--seconds", type=int, default=4, help="of speech that each session writes")
    parser.add_argument("--read", type=int, default=200, help="positions that each has read before")
    options = parse(parser, given, sessions=[2], seconds=1, read=20)
    assistant = load(options)
    model = grown(assistant)
    rows: list[dict[str, Any]] = []
    for name, config in CONFIGS.items():
        engine = Engine(model, config)
        for count in options.sessions:
            taken = [
                seconds_of(assistant, engine, count, options.read, options.seconds) for _ in range(options.repeats)
            ]
            decoding, voice = (median(each) / options.seconds for each in zip(*taken, strict=True))
            rows.append(
                {
                    "weights": name,
                    "sessions": count,
                    "million weights a step": sum(p.numel() for p in model.model.language_model.layers.parameters())
                    / 1e6
                    + model.lm_head.weight.numel() / 1e6,
                    "MB read a step": layers(engine).bytes_read() / 1e6,
                    "decoding": decoding,
                    "voice": voice,
                    "of real time": decoding + voice,
                }
            )

    def draw(axes: Axes) -> None:
        axes.barh([f"{row['weights']}, {row['sessions']}" for row in rows], [row["of real time"] for row in rows])
        axes.axvline(1, linestyle=":", color="black")
        axes.set_xlabel("compute for a second of speech of every session, s")

    report("larger", options, rows, draw, note="random weights of the shape")


if __name__ == "__main__":
    run_program(main)
