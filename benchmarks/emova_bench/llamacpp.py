"""The engine on llama.cpp beside bare llama.cpp, on one file, in pairs: tokens a second of one reply and of several,
what a session costs, and the time to the first sound."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from emova import Assistant
from emova.assistant import AssistantConfig
from emova.checkpoint.gguf import DTYPES
from emova.cli.main import run_program
from emova.decoding.protocol import Prompt
from emova.engine.decoder import EngineDecoder
from emova.engine.engine import Engine, EngineConfig
from emova.session.scheduler import Scheduler
from emova_bench.common import arguments, first_sound, load, median, parse, question, report, resident_bytes
from emova_bench.decode import LlamaCpp, engine_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARE, ENGINE = "llama.cpp", "engine"


@torch.inference_mode()
def sessions_seconds(engine: Engine, prompt: Prompt, tokens: int, sessions: int) -> tuple[float, list[int]]:
    """Time to write ``tokens`` greedily in each of ``sessions``, side by side, and the tokens of the first."""
    caches = [engine.new_cache() for _ in range(sessions)]
    rows = torch.cat([engine.read(cache, engine.embed(prompt)) for cache in caches])
    written: list[int] = []
    started = time.perf_counter()
    for _ in range(tokens):
        best = engine.llama.scores(rows).argmax(-1).tolist()
        written.append(best[0])
        new = [engine.llama.embed([token]) for token in best]
        rows = engine.llama.forward(list(zip(caches, new, strict=True)))
    return time.perf_counter() - started, written


def first_sounds(assistant: Assistant, repeats: int) -> float:
    """Seconds from a spoken question's end to the first sound of its answer; the median."""
    scheduler, seconds = Scheduler(assistant), []
    for _ in range(repeats):
        session = scheduler.open()
        session.hear(question(3.0))
        started = time.perf_counter()
        first_sound(session.ask())
        seconds.append(time.perf_counter() - started)
        session.close()
    return median(seconds)


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("llamacpp", __doc__ or "")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--sessions", type=int, default=4, help="side by side (%(default)s)")
    parser.add_argument("--gguf", nargs="+", choices=DTYPES, default=["f16", "q8_0", "q4_k_m"], help="number formats")
    options = parse(parser, given, tokens=8, gguf=["f16"])
    assistant = load(options)
    assert isinstance(assistant.decoder, EngineDecoder)
    model, count, several = assistant.parts.model, options.tokens, options.sessions
    prompt = Prompt(assistant.prompt([{"role": "user", "content": "What is in the picture?"}]).ids)
    beside, in_turn = f"{several} replies, one call", f"{several} replies, in turn"
    rows: list[dict[str, object]] = []
    speeds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in options.gguf:
            peer = LlamaCpp(assistant, Path(folder), dtype, options.threads)
            path = Path(folder) / f"{dtype}.gguf"
            config = EngineConfig(backend="llama.cpp", gguf=str(path))
            engine, together = Engine(model, config), Engine(model, dataclasses.replace(config, parallel=several))
            ways: dict[str, Callable[[], tuple[float, list[int]]]] = {
                BARE: partial(peer.seconds, prompt, count),
                ENGINE: partial(engine_seconds, engine, prompt, count),
                in_turn: partial(sessions_seconds, engine, prompt, count, several),
                beside: partial(sessions_seconds, together, prompt, count, several),
            }
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            written: dict[str, list[int]] = {}
            for _ in range(options.repeats):  # in turns, so that a busy machine slows all of them
                for name, way in ways.items():
                    taken, written[name] = way()
                    seconds[name].append(taken)
            before = resident_bytes()
            cache = engine.new_cache()
            engine.read(cache, engine.embed(prompt))
            session_bytes = resident_bytes() - before
            del cache
            settings = AssistantConfig(engine=config)
            heard = first_sounds(Assistant.from_pretrained(options.checkpoint, config=settings), options.repeats)
            for name in ways:
                replies = several if name in (in_turn, beside) else 1
                # Of pairs that were measured one after the other.
                ratios = [replies * bare / own for bare, own in zip(seconds[BARE], seconds[name], strict=True)]
                speeds[f"{dtype} {name}"] = replies * count / median(seconds[name])
                rows.append(
                    {
                        "file": dtype,
                        "MiB": path.stat().st_size / 2**20,
                        "decoder": name,
                        "tokens/s": speeds[f"{dtype} {name}"],
                        "x llama.cpp": median(ratios),
                        "same tokens": written[name] == written[BARE],
                        "MiB a session": session_bytes / 2**20 if name == ENGINE else None,
                        "first sound, s": heard if name == ENGINE else None,
                    }
                )

    def draw(axes: Axes) -> None:
        axes.barh(list(speeds), list(speeds.values()))
        axes.invert_yaxis()
        axes.set_xlabel("tokens a second")

    report("llamacpp", options, rows, draw)


if __name__ == "__main__":
    run_program(main)
