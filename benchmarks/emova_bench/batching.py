"""Tokens a second of many sequences in one step: our batched step, one sequence after another, and llama.cpp with as
many slots in one ``llama_decode``, as its server decodes, on the same weights in float16."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from emova import Assistant
from emova.cli.main import run_program
from emova.core.errors import InputError
from emova.core.llamacpp import llama_cpp
from emova.decoding.protocol import Prompt
from emova.engine.engine import Engine
from emova_bench.common import arguments, load, median, parse, report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROMPT = 32
"""Positions that each sequence has read."""


@torch.inference_mode()
def ours(engine: Engine, count: int, tokens: int) -> float:
    """Seconds in which each of ``count`` sequences gets ``tokens`` more, all in one step."""
    caches = [engine.new_cache(PROMPT + tokens) for _ in range(count)]
    for cache in caches:
        engine.read(cache, engine.embed(Prompt(tuple(range(PROMPT)))))
    chosen = list(range(count))
    started = time.perf_counter()
    for _ in range(tokens):
        new = [engine.llama.embed([token]) for token in chosen]
        hidden = engine.llama.forward(list(zip(caches, new, strict=True)))
        chosen = engine.llama.scores(hidden).argmax(dim=1).tolist()
    return time.perf_counter() - started


def serially(engine: Engine, count: int, tokens: int) -> float:
    """The same, one sequence after another."""
    return sum(ours(engine, 1, tokens) for _ in range(count))


class Slots:
    """llama.cpp with several sequences in one context.

    Args:
        folder: where the weights are exported to.
    """

    def __init__(self, assistant: Assistant, folder: Path, threads: int) -> None:
        from emova.checkpoint.gguf import export_gguf

        self._api, self._threads = llama_cpp("the benchmark"), threads
        path = folder / "f16.gguf"
        export_gguf(assistant.parts.model, assistant.parts.processor.tokenizer, path, "f16")
        self._model = self._api.llama_model_load_from_file(str(path).encode(), self._api.llama_model_default_params())
        count = assistant.parts.model.config.token_count
        assert count is not None, "set when the configuration is made"
        self._vocabulary = count

    def seconds(self, count: int, tokens: int) -> float:
        """As ``ours``."""
        api, options = self._api, self._api.llama_context_default_params()
        options.n_ctx, options.n_seq_max = count * (PROMPT + tokens), count
        options.n_batch = options.n_ubatch = max(count, PROMPT)
        options.n_threads = options.n_threads_batch = self._threads
        options.type_k = options.type_v = api.GGML_TYPE_F16
        if hasattr(options, "n_outputs_max"):
            options.n_outputs_max = max(count, PROMPT)
        context = api.llama_init_from_model(self._model, options)
        batch = api.llama_batch_init(max(count, PROMPT), 0, 1)
        try:
            for slot in range(count):
                self._decode(context, batch, [(token, token, slot) for token in range(PROMPT)])
            chosen = list(range(count))
            started = time.perf_counter()
            for place in range(tokens):
                self._decode(context, batch, [(token, PROMPT + place, slot) for slot, token in enumerate(chosen)])
                scores = np.ctypeslib.as_array(api.llama_get_logits(context), (count, self._vocabulary))
                chosen = scores.argmax(axis=1).tolist()
            return time.perf_counter() - started
        finally:
            api.llama_batch_free(batch)
            api.llama_free(context)

    def _decode(self, context: object, batch: object, rows: Sequence[tuple[int, int, int]]) -> None:
        """Read (token, position, slot) rows, and score each."""
        batch.n_tokens = len(rows)  # type: ignore[attr-defined]  # llama.cpp's structure
        for index, (token, position, slot) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position  # type: ignore[attr-defined]
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, slot  # type: ignore[attr-defined]
            batch.logits[index] = 1  # type: ignore[attr-defined]
        if self._api.llama_decode(context, batch) != 0:
            raise RuntimeError("llama.cpp could not read a batch")


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("batching", __doc__ or "")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=60, help="of each sequence")
    options = parse(parser, given, sessions=[1, 2], tokens=4)
    assistant, rows = load(options), []
    engine = Engine(assistant.parts.model)
    with tempfile.TemporaryDirectory() as folder:
        ways: dict[str, Callable[[int, int], float]] = {
            "together": partial(ours, engine),
            "one after another": partial(serially, engine),
        }
        try:
            ways["llama.cpp"] = Slots(assistant, Path(folder), options.threads).seconds
        except InputError as error:
            print(f"llama.cpp is left out: {error}")
        for count in options.sessions:
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(options.repeats):
                for name, way in ways.items():
                    seconds[name].append(way(count, options.tokens))
            speed = {name: count * options.tokens / median(taken) for name, taken in seconds.items()}
            peer = speed.get("llama.cpp")
            rows.append(
                {
                    "sequences": count,
                    **{f"{name}, tokens/s": value for name, value in speed.items()},
                    "x one after another": speed["together"] / speed["one after another"],
                    "x llama.cpp": speed["together"] / peer if peer else None,
                    "x real time, each": speed["together"] / count / assistant.voice.detokenizer.unit_rate,
                }
            )

    def draw(axes: Axes) -> None:
        for name in ways:
            axes.plot(options.sessions, [row[f"{name}, tokens/s"] for row in rows], "o-", label=name)
        axes.set_xlabel("sequences at once")
        axes.set_ylabel("tokens a second, all together")
        axes.legend()

    report("batching", options, rows, draw)


if __name__ == "__main__":
    run_program(main)
