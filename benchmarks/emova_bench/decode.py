"""Tokens a second at batch 1: the engine against transformers' ``generate``, against llama.cpp where llama_cpp is
installed, and against what the memory's bandwidth allows; and what int8 weights cost in quality."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from emova import Assistant
from emova.checkpoint.gguf import DType
from emova.cli.main import run_program
from emova.decoding.protocol import Prompt
from emova.engine.engine import Engine, EngineConfig
from emova.model import EmovaForConditionalGeneration
from emova.native.panels import Kind
from emova_bench.common import arguments, layers, load, median, parse, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENGINES = {
    "torch float32": EngineConfig(backend="torch"),
    "torch int8": EngineConfig(int8=True, backend="torch"),
    "compiled": EngineConfig(),
    "compiled float32 cache": EngineConfig(half_cache=False),
    "compiled int8": EngineConfig(int8=True),
    "compiled int4": EngineConfig(int4=True),
}
TRANSFORMERS = "transformers float32"
WITHIN = "engine on llama.cpp "
LLAMA_TYPES: dict[Kind, DType] = {
    Kind.FLOAT32: "f32",
    Kind.FLOAT16: "f16",
    Kind.INT8: "q8_0",
    Kind.INT4: "q4_0",
}
"""llama.cpp's name for weights of about the same precision: its whole numbers share a scale with 31 neighbours, as ours
do in 4 bits; our int8 rows have one scale. Its ``q4_0`` keeps the head in 6 bits, ours in 8."""


BEYOND_CACHES = 256 << 20
"""Bytes that no processor's cache holds."""


def bandwidth(size: int, repeats: int) -> float:
    """Bytes a second that are read by summing a tensor of ``size`` bytes again and again.

    What fits a cache is read from there, as weights are that do.
    """
    data = torch.ones(size // 4)
    seconds = []
    for _ in range(max(3, repeats) * max(1, BEYOND_CACHES // size // 4)):
        started = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - started)
    return data.numel() * 4 / min(seconds)


@torch.inference_mode()
def engine_seconds(
    engine: Engine, prompt: Prompt, tokens: int, allowed: np.ndarray | None = None
) -> tuple[float, list[int]]:
    """Time to write ``tokens`` greedily (among ``allowed``), the prompt not counted, and the tokens."""
    cache = engine.new_cache()
    hidden = engine.read(cache, engine.embed(prompt))
    written: list[int] = []
    started = time.perf_counter()
    for _ in range(tokens):
        best = int(engine.llama.scores(hidden, allowed)[0].argmax())
        written.append(best if allowed is None else int(allowed[best]))
        hidden = engine.llama.forward([(cache, engine.llama.embed(written[-1:]))])
    return time.perf_counter() - started, written


@torch.inference_mode()
def generate_seconds(model: EmovaForConditionalGeneration, prompt: Prompt, tokens: int) -> tuple[float, list[int]]:
    """The same with transformers; the time of one token is taken off for the prompt."""
    ids = torch.tensor([prompt.ids])
    # The rows of padding have no meaning, so they cannot be chosen.
    assert model.config.token_count is not None, "set when the configuration is made"
    padding = list(range(model.config.token_count, model.lm_head.weight.shape[0]))
    times = []
    for count in (1, tokens + 1):
        started = time.perf_counter()
        output = model.generate(  # type: ignore[misc]  # transformers' own self type
            input_ids=ids,
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            suppress_tokens=padding or None,
        )
        times.append(time.perf_counter() - started)
    return times[1] - times[0], output[0, len(prompt.ids) :].tolist()[:tokens]


class LlamaCpp:
    """llama.cpp on the same weights, exported to GGUF."""

    def __init__(self, assistant: Assistant, folder: Path, dtype: DType, threads: int) -> None:
        from llama_cpp import GGML_TYPE_F16, GGML_TYPE_F32, Llama

        from emova.checkpoint.gguf import export_gguf

        cache = GGML_TYPE_F32 if dtype == "f32" else GGML_TYPE_F16  # as ours
        path = folder / f"{dtype}.gguf"
        export_gguf(assistant.parts.model, assistant.parts.processor.tokenizer, path, dtype)
        self.llama = Llama(
            str(path),
            n_ctx=assistant.decoder.max_length,
            n_threads=threads,
            n_threads_batch=threads,
            type_k=cache,
            type_v=cache,
            verbose=False,
        )

    def seconds(self, prompt: Prompt, tokens: int) -> tuple[float, list[int]]:
        """As ``engine_seconds``."""
        self.llama.reset()
        stream = self.llama.generate(list(prompt.ids), temp=0.0, repeat_penalty=1.0)
        written = [next(stream)]
        started = time.perf_counter()
        written += itertools.islice(stream, tokens)
        return time.perf_counter() - started, written[:tokens]


@torch.inference_mode()
def quality(exact: Engine, rough: Engine, ids: Sequence[int]) -> dict[str, float]:
    """How far the scores after each of ``ids`` differ."""
    logs = []
    for engine in (exact, rough):
        cache = engine.new_cache()
        hidden = [engine.llama.forward([(cache, engine.llama.embed([token]))]) for token in ids]
        logs.append(engine.llama.scores(torch.cat(hidden)).log_softmax(-1))
    divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()
    same = (logs[0].argmax(-1) == logs[1].argmax(-1)).float().mean()
    return {"KL": float(divergence), "same best": float(same)}


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("decode", __doc__ or "")
    parser.add_argument("--tokens", type=int, default=200)
    options = parse(parser, given, tokens=16)
    assistant = load(options)
    model, count = assistant.parts.model, options.tokens
    prompt = Prompt(assistant.prompt([{"role": "user", "content": "What is in the picture?"}]).ids)
    units = assistant.table.allowed_units(may_end=False)
    engines = {name: Engine(model, config) for name, config in ENGINES.items()}
    ways: dict[str, Callable[[], tuple[float, list[int]]]] = {
        TRANSFORMERS: lambda: generate_seconds(model, prompt, count)
    }
    for name, engine in engines.items():
        ways[name] = partial(engine_seconds, engine, prompt, count)
        ways[f"{name}, units"] = partial(engine_seconds, engine, prompt, count, units)
    seconds: dict[str, list[float]] = {}
    written: dict[str, list[int]] = {}
    roughness: dict[str, dict[str, float]] = {}
    judged = dict(engines)
    with tempfile.TemporaryDirectory() as folder:
        try:
            for dtype in LLAMA_TYPES.values():
                peer = LlamaCpp(assistant, Path(folder), dtype, options.threads)
                ways[f"llama.cpp {dtype}"] = partial(peer.seconds, prompt, count)
                within = Engine(model, EngineConfig(backend="llama.cpp", gguf=str(Path(folder) / f"{dtype}.gguf")))
                ways[f"{WITHIN}{dtype}"] = partial(engine_seconds, within, prompt, count)
                judged[f"{WITHIN}{dtype}"] = within
        except ImportError:
            print("llama.cpp is left out: `pip install llama-cpp-python` builds it")
        for _ in range(options.repeats):  # in turns, so that a busy machine slows all of them
            for name, way in ways.items():
                taken, written[name] = way()
                seconds.setdefault(name, []).append(taken)
        truth = written[TRANSFORMERS]
        for name, engine in judged.items():
            roughness[name] = quality(engines["torch float32"], engine, [*prompt.ids, *truth])
    speed = {name: count / median(values) for name, values in seconds.items()}
    memory = bandwidth(BEYOND_CACHES, options.repeats)
    rows = []
    for name, value in speed.items():
        own = engines.get(name.partition(",")[0])
        whole = name in engines  # over the whole vocabulary, as the peers decode
        peer_speed = speed.get(f"llama.cpp {LLAMA_TYPES.get(layers(own).kind)}") if own and whole else None
        if name.startswith(WITHIN):  # the same file, without and with what the engine does around it
            peer_speed = speed[f"llama.cpp {name.removeprefix(WITHIN)}"]
        rough = roughness.get(name, {})
        bytes_read = layers(own).bytes_read(None if whole else units) if own else None
        rows.append(
            {
                "decoder": name,
                "tokens/s": value,
                "x transformers": value / speed[TRANSFORMERS],
                "x llama.cpp": value / peer_speed if peer_speed else None,
                "of the memory's limit": value * bytes_read / memory if bytes_read else None,
                "of its size's limit": value * bytes_read / bandwidth(bytes_read, 3) if bytes_read else None,
                "same tokens": None if ", units" in name else written[name] == truth,
                "KL": rough.get("KL"),
                "same best": rough.get("same best"),
            }
        )

    def draw(axes: Axes) -> None:
        axes.barh(list(speed), list(speed.values()))
        axes.invert_yaxis()
        axes.set_xlabel("tokens a second")

    report("decode", options, rows, draw, bytes_per_second=memory)


if __name__ == "__main__":
    run_program(main)
