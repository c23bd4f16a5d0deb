"""Train the language model to read aloud, from a checkpoint, on the sentences that are spoken by now.

    emova train reading nano

A run saves itself every few minutes and when it is stopped, and goes on from there with whatever shards there are then.
It keeps a running mean of the weights, which is what it exports: a mean is as good as weights whose rate has fallen,
so the run has a good model at any time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import emova.core.compat  # noqa: F401

# isort: split
import torch
from safetensors.torch import load_file
from torch import Tensor

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.core.writing import make_folder, save_tensors, write_text
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova_train.core.program import add_config, run_module
from emova_train.core.progress import StopSignals
from emova_train.reading.config import ReadingConfig
from emova_train.reading.digits import SharedDigits
from emova_train.reading.language import Reader
from emova_train.reading.stream import Stream, StreamState
from emova_train.stages.program import export

STATE, WEIGHTS = "state.json", "state.safetensors"


def optimizers(model: torch.nn.Module, config: ReadingConfig) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon (Jordan et al. 2024) for the matrices inside the layers and AdamW for the rest."""
    named = list(model.named_parameters())
    inner = [p for name, p in named if p.ndim == 2 and "embed" not in name] if config.optimizer == "muon" else []
    ours = {id(p) for p in inner}
    rest = [p for _, p in named if id(p) not in ours]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.rate, betas=config.betas, fused=True)]
    if inner:
        made.append(
            torch.optim.Muon(inner, lr=config.rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return made


class Run:
    """The state of a run and its steps."""

    def __init__(self, config: ReadingConfig) -> None:
        self.config = config
        self.output = Path(config.output_dir)
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        if not (Path(config.checkpoint) / "config.json").is_file():
            raise InputError(f"{config.checkpoint}: no checkpoint there; name an export of a stage")
        self.whole = EmovaForConditionalGeneration.from_pretrained(
            config.checkpoint, dtype=torch.float32, local_files_only=True
        )
        self.processor = EmovaProcessor.from_pretrained(config.checkpoint, local_files_only=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = self.whole.model.language_model.to(self.device)
        own = self.whole.config
        classes = (own.speech_end_token_id, own.speech_first_token_id + own.speech_codebook_size)
        guided = {int(layer): heads for layer, heads in config.guide.heads.items()} if config.guide.weight else {}
        self.reader = Reader(self.model, classes, config.length, guided).to(self.device)
        self.optimizers = optimizers(self.model, config)
        self.digits: SharedDigits | None = None
        if config.digits:
            embedding, first = self.model.embed_tokens.weight, own.speech_first_token_id
            self.digits = SharedDigits(embedding, first, own.speech_codebook_size, config.digits)
            shared = torch.optim.AdamW([self.digits.vectors], lr=config.rate, betas=config.betas, weight_decay=0.0)
            self.optimizers.append(shared)
        self.mean = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.step, self.guide, self.tokens = 0, config.guide.weight, 0
        self.last: dict[str, float] = {}
        state = StreamState()
        if (self.output / STATE).is_file():
            state = self._load()
        self.stream = Stream(Path(config.shards), self.processor.tokenizer, length=config.length, rows=config.rows,
                             seed=config.seed, state=state)  # fmt: skip

    # Checkpoints

    def _tensors(self) -> dict[str, Tensor]:
        found = {f"weights.{name}": p.detach() for name, p in self.model.named_parameters()}
        found |= {f"mean.{name}": value for name, value in self.mean.items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, slots in optimizer.state_dict()["state"].items():
                for slot, value in slots.items():
                    found[f"optimizer.{number}.{index}.{slot}"] = torch.as_tensor(value)
        return {name: value.contiguous().cpu() for name, value in found.items()}

    def save(self) -> None:
        """Write the run's state, whole or not at all. Raises: InputError: the disk is full."""
        make_folder(self.output)
        state = {"step": self.step, "guide": self.guide, "tokens": self.tokens, "stream": asdict(self.stream.state)}
        name = f"state-{self.step}.safetensors"
        save_tensors(self.output / name, self._tensors())
        write_text(self.output / STATE, json.dumps({**state, "weights": name}))  # from here on the weights count
        for old in self.output.glob("state-*.safetensors"):
            if old.name != name:
                old.unlink()

    def _load(self) -> StreamState:
        state = json.loads((self.output / STATE).read_text(encoding="utf-8"))
        tensors = load_file(self.output / state["weights"])
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors[f"weights.{name}"])
                self.mean[name].copy_(tensors[f"mean.{name}"])
        for number, optimizer in enumerate(self.optimizers):
            whole: dict[str, object] = optimizer.state_dict()
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(f"optimizer.{number}."):
                    _, _, index, slot = key.split(".")
                    slots.setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict({**whole, "state": slots})
        self.step, self.guide, self.tokens = state["step"], state["guide"], state["tokens"]
        return StreamState(**state["stream"])

    def export(self, folder: Path) -> None:
        """Write the model with the mean weights as a checkpoint that everything else reads."""
        kept = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(self.mean[name])
        export(self.whole.cpu(), self.processor, folder)
        self.model.to(self.device)
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(kept[name])

    # Steps

    def losses(self, batch: dict[str, Tensor], guided: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross entropy of the units, share of right ones, mean loss of the guided heads."""
        batch = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        looks = batch["looks"] if guided else None
        each, right, looking = self.reader(batch["ids"], batch["owners"], batch["places"], batch["targets"], looks)
        count = (batch["targets"] != -100).sum()
        return each.sum() / count, right.sum() / count, looking

    def train_step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        loss, right, looking = self.losses(batch, self.guide > 0)
        (loss + self.guide * looking).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        finite = bool(torch.isfinite(norm))
        if self.digits is not None:
            self.digits.collect()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.rate_at(self.step)
            if finite:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.digits is not None:
            self.digits.fold()
        self.step += 1
        self.tokens += batch["ids"].numel()
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        if self.step % 5 == 0:
            with torch.no_grad():
                values = list(self.mean.values())
                torch._foreach_lerp_(values, [p.detach() for p in self.model.parameters()], 1 - decay**5)
        self.last = {"loss": loss.item(), "right": right.item(), "looking": looking.item(), "norm": norm.item(),
                     "skipped": float(not finite)}  # fmt: skip
        return self.last

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        batches = self.stream.validation(self.config.eval_sentences)
        for batch in batches:
            for name, value in zip(("loss", "right", "looking"), self.losses(batch, bool(self.reader.guided)),
                                   strict=True):  # fmt: skip
                sums[name] = sums.get(name, 0.0) + float(value) / len(batches)
        return sums

    def write(self, kind: str, values: dict[str, float]) -> None:
        line = {"kind": kind, "step": self.step, "tokens": self.tokens, "time": round(time.time()),
                "cpu": round(time.process_time()), **{k: round(v, 4) for k, v in values.items()}}  # fmt: skip
        with (self.output / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"{kind} {self.step}/{self.config.max_steps}  {shown}", file=sys.stderr, flush=True)

    def train(self) -> None:
        """Go on until ``max_steps`` or a signal; saves and exports at the end."""
        config = self.config
        make_folder(self.output)
        save_config(config, self.output / "config.yaml")
        saved, window = time.monotonic(), (time.process_time(), time.monotonic(), self.tokens)
        sums: dict[str, float] = {}
        counted = 0
        with StopSignals() as signals:
            batches = iter(self.stream)
            while self.step < config.max_steps and signals.received is None:
                for name, value in self.train_step(next(batches)).items():
                    sums[name] = sums.get(name, 0.0) + value
                counted += 1
                if self.step % config.log_every == 0:
                    sums = {name: total / counted for name, total in sums.items()}
                    if self.guide == config.guide.weight and sums["looking"] < config.guide.enough:
                        self.guide = config.guide.weight / 10
                    cpu, wall, tokens = window
                    window = (time.process_time(), time.monotonic(), self.tokens)
                    rates = {"tokens_per_cpu_s": (self.tokens - tokens) / (window[0] - cpu),
                             "tokens_per_s": (self.tokens - tokens) / (window[1] - wall)}  # fmt: skip
                    self.write("train", {**sums, "guide": self.guide, **rates})
                    sums, counted = {}, 0
                if self.step % config.eval_every == 0:
                    self.write("eval", self.validate())
                if time.monotonic() - saved > 60 * config.save_minutes:
                    self.save()
                    self.export(self.output / "export")
                    saved = time.monotonic()
            self.save()
            self.export(self.output / "export")
            signals.exit_if_asked()


def register(parser: argparse.ArgumentParser) -> None:
    """The program's arguments."""
    add_config(parser, "nano", field="max_steps=200")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    config = load_config(ReadingConfig, arguments.config, arguments.overrides, kind="reading")
    Run(config).train()
    return 0


if __name__ == "__main__":
    sys.exit(run_module(register, "emova_train.reading.run", (__doc__ or "").split("\n")[0]))
