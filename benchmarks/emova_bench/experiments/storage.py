"""What fewer bits of the weights cost: another checkpoint of the same model against the first, on fixture questions.

The first answers each question; both then read question and answer, and their scores of each next token are compared:
Kullback-Leibler divergence and loss in nats a token. Then the other answers too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

import emova_eval
from emova import Assistant, find_checkpoint
from emova.cli.main import run_program
from emova.decoding.protocol import Prompt
from emova.engine.engine import Engine, EngineConfig
from emova.events import Reply
from emova.reply.format import SpokenReply
from emova_bench.common import arguments, layers, load, parse, report
from emova_eval.metrics.text import ErrorRate, word_errors
from emova_eval.suite.offline import FixtureRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIXTURES = Path(emova_eval.__file__).parent / "fixtures"
SAME = ("transcript", "text", "emotion", "pitch", "units")


def question_of(assistant: Assistant, row: FixtureRow) -> Prompt:
    """The question's picture, if any, and its speech."""
    content: list[dict[str, object]] = [{"type": "audio", "units": assistant.listen(FIXTURES / row["audio"])}]
    if row["image"]:
        content.insert(0, {"type": "image", "image": FIXTURES / row["image"]})
    return assistant.prompt([{"role": "user", "content": content}])


@torch.inference_mode()
def next_scores(engine: Engine, prompt: Prompt, answer: Sequence[int]) -> Tensor:
    """Log-probabilities ``[A, V]`` of each token of the answer."""
    given = torch.cat([engine.embed(prompt), engine.llama.embed(answer[:-1])])
    hidden = engine.llama.forward([(engine.new_cache(), given)], every=True)
    return engine.llama.scores(hidden[len(prompt.ids) - 1 :]).log_softmax(-1)


def main(given: Sequence[str] | None = None) -> None:
    parser = arguments("storage", __doc__ or "")
    parser.add_argument("--other", default="", help="the checkpoint that is compared; the first itself if not given")
    options = parse(parser, given)
    models = [load(options), Assistant.from_pretrained(options.other or options.checkpoint)]
    engines = [Engine(model.parts.model, EngineConfig(backend="torch")) for model in models]
    lines = (FIXTURES / "questions.jsonl").read_text(encoding="utf-8").splitlines()[: 2 if options.quick else None]
    totals = dict.fromkeys(("KL", "same best", "loss 0", "loss 1"), 0.0)
    tokens, same = 0, dict.fromkeys(SAME, 0)
    right, errors = [0, 0], [ErrorRate(0, 0), ErrorRate(0, 0)]
    for row in map(json.loads, lines):
        picture = FIXTURES / row["image"] if row["image"] else None
        replies: list[Reply] = [model.chat(audio=FIXTURES / row["audio"], image=picture) for model in models]
        first = replies[0]
        spoken = SpokenReply(first.transcript, first.text, first.emotion, first.pitch, first.units)
        answer, prompt = models[0].reply_format.encode(spoken, models[0].table), question_of(models[0], row)
        logs = [next_scores(engine, prompt, answer) for engine in engines]
        truth = torch.tensor(answer)
        totals["KL"] += float((logs[0].exp() * (logs[0] - logs[1])).sum())
        totals["same best"] += float((logs[0].argmax(-1) == logs[1].argmax(-1)).sum())
        tokens += len(answer)
        for index, reply in enumerate(replies):
            totals[f"loss {index}"] += float(functional.nll_loss(logs[index], truth, reduction="sum"))
            right[index] += row["fact"].lower() in reply.text.lower() if row["fact"] else reply.text == row["answer"]
            errors[index] += word_errors(row["question"], reply.transcript)
        for name in SAME:
            same[name] += getattr(first, name) == getattr(replies[1], name)
    sizes = [sum(file.stat().st_size for file in find_checkpoint(name).rglob("*") if file.is_file()) / 2**20
             for name in (options.checkpoint, options.other or options.checkpoint)]  # fmt: skip
    rows = [
        {
            "checkpoint": name,
            "MiB": sizes[index],
            "bytes a weight": layers(Engine(models[index].parts.model)).kind.bytes,
            "loss": totals[f"loss {index}"] / tokens,
            "right answers": right[index],
            "questions": len(lines),
            "WER of questions, %": 100 * errors[index].rate,
        }
        for index, name in enumerate((options.checkpoint, options.other or options.checkpoint))
    ]

    def draw(axes: Axes) -> None:
        axes.bar([row["checkpoint"] for row in rows], sizes)
        axes.set_ylabel("MiB")

    compared = {"KL": totals["KL"] / tokens, "same best": totals["same best"] / tokens, "tokens": tokens}
    report("storage", options, rows, draw, **compared, **{f"same {name}": count for name, count in same.items()})


if __name__ == "__main__":
    run_program(main)
