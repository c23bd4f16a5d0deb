"""Tokens a second: the engine (float32, int8) against transformers' ``generate`` and the memory's bandwidth."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.common import arguments, load, median, report
from emova.decoding import Prompt
from emova.streaming.engine import Engine, EngineConfig


def bandwidth(repeats: int) -> float:
    """Bytes a second that are read by summing a large tensor."""
    data = torch.ones(64 << 20)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - started)
    return data.numel() * 4 / min(seconds)


def weight_bytes(engine: Engine) -> int:
    """What a token reads: all linears and the whole head."""
    llama = engine.llama
    linears = [each for layer in llama.layers for each in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    return sum(each.weight.numel() * each.weight.element_size() for each in (*linears, llama.head))


@torch.inference_mode()
def engine_seconds(engine: Engine, prompt: Prompt, tokens: int) -> tuple[float, list[int]]:
    """Time to write ``tokens`` greedily over the whole vocabulary, the prompt not counted, and the tokens."""
    cache = engine.new_cache()
    hidden = engine.read(cache, engine.embed(prompt))
    written: list[int] = []
    started = time.perf_counter()
    for _ in range(tokens):
        written.append(int(engine.llama.scores(hidden)[0].argmax()))
        hidden = engine.llama.forward([(cache, engine.llama.embed(written[-1:]))])
    return time.perf_counter() - started, written


@torch.inference_mode()
def generate_seconds(model: Any, prompt: Prompt, tokens: int) -> tuple[float, list[int]]:
    """The same with transformers; the time of one token is taken off for the prompt."""
    ids = torch.tensor([prompt.ids])
    times = []
    for count in (1, tokens + 1):
        started = time.perf_counter()
        output = model.generate(
            input_ids=ids, max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None
        )
        times.append(time.perf_counter() - started)
    return times[1] - times[0], output[0, len(prompt.ids) :].tolist()[:tokens]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    assistant = load(options)
    model = assistant.parts.model
    prompt = Prompt(assistant._prompt([{"role": "user", "content": "What is in the picture?"}]).ids)
    engines = {name: Engine(model, EngineConfig(int8=name == "int8")) for name in ("float32", "int8")}
    seconds: dict[str, list[float]] = {"transformers": [], **{name: [] for name in engines}}
    written: dict[str, list[int]] = {}
    for _ in range(options.repeats):  # in turns, so that a busy machine slows all of them
        taken, written["transformers"] = generate_seconds(model, prompt, options.tokens)
        seconds["transformers"].append(taken)
        for name, engine in engines.items():
            taken, written[name] = engine_seconds(engine, prompt, options.tokens)
            seconds[name].append(taken)
    speed = {name: options.tokens / median(values) for name, values in seconds.items()}
    read = bandwidth(options.repeats)
    rows = [
        {
            "decoder": name,
            "tokens/s": value,
            "x transformers": value / speed["transformers"],
            "of bandwidth limit": value * weight_bytes(engines[name]) / read if name in engines else None,
            "same tokens": written[name] == written["transformers"],
        }
        for name, value in speed.items()
    ]
    report("decode", options, rows, lambda axes: axes.bar(list(speed), list(speed.values())), bytes_per_second=read)


if __name__ == "__main__":
    main()
