"""Laws of the training loop: resumed equals uninterrupted, bad steps change nothing, only whole checkpoints count."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emova_train.core import checkpointing
from emova_train.core.config import RunConfig
from emova_train.core.loop import fit
from emova_train.core.metrics import read
from emova_train.core.trainer import DivergenceError


class Noisy:
    """Samples that draw from every global generator: the loop must make them reproducible all the same."""

    lengths: list[int] | None

    def __init__(self, size: int = 13) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        raise AssertionError("a set with samples by epoch is asked for those")

    def sample(self, index: int, epoch: int) -> dict[str, Tensor]:
        noise = random.random() + np.random.rand() + torch.rand(4)
        return {"x": torch.full((4,), float(index)) / self.size + 0.01 * noise + 0.001 * epoch}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.first = nn.Linear(4, 8)
        self.tied = nn.Linear(4, 8, bias=False)
        self.tied.weight = self.first.weight
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(8, 1)
        self.poison: set[int] = set()
        self.calls = 0

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        out = self.last(self.drop(torch.tanh(self.first(x) + self.tied(x))))
        loss = (out.float() - x.sum(1, keepdim=True)).square().mean()
        if self.training:
            self.calls += 1
            if self.calls in self.poison:
                loss = loss * float("nan")
        return {"loss": loss, "size": out.detach().float().abs().mean(), "tokens": torch.tensor(float(x.shape[0]))}


def run_config(folder: Path, **changes: object) -> RunConfig:
    values = dict(
        output_dir=str(folder), max_steps=12, batch_size=3, gradient_accumulation=2, log_every=1, save_every=4,
        eval_every=6, threads=1, seed=3, learning_rate=1e-2, precision="fp32",
    )  # fmt: skip
    return RunConfig(**{**values, **changes})  # type: ignore[arg-type]


def losses(folder: Path) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["lr"]) for row in read(folder / "metrics.jsonl") if row["kind"] == "train"]


class StopAt(Net):
    """Sends the process a signal in the middle of a step."""

    def __init__(self, call: int, number: int) -> None:
        super().__init__()
        self.stop_call, self.number = call, number

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        terms = super().forward(x)
        if self.training and self.calls == self.stop_call:
            signal.raise_signal(self.number)
        return terms


@pytest.mark.parametrize(("precision", "workers"), [("fp32", 1), ("bf16", 0)])
def test_resumed_equals_uninterrupted(tmp_path: Path, precision: str, workers: int) -> None:
    whole = Net()
    result = fit(whole, Noisy(), None, run_config(tmp_path / "whole", precision=precision), eval_set=Noisy(5))
    assert result.steps == 12 and result.skipped_steps == 0
    assert result.checkpoint == tmp_path / "whole" / "checkpoint-12"

    run = run_config(tmp_path / "cut", precision=precision, workers=workers)
    with pytest.raises(SystemExit) as stopped:
        fit(StopAt(14, signal.SIGTERM), Noisy(), None, run, eval_set=Noisy(5))
    assert stopped.value.code == 128 + signal.SIGTERM
    assert checkpointing.step_of(checkpointing.latest(run.output_dir)) == 7  # type: ignore[arg-type]
    torch.manual_seed(99)
    again = Net()
    fit(again, Noisy(), None, run, eval_set=Noisy(5))

    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    evals = [[row["loss"] for row in read(tmp_path / run / "metrics.jsonl") if row["kind"] == "eval"]
             for run in ("whole", "cut")]  # fmt: skip
    assert evals[0] == evals[1] and len(evals[0]) == 2


def test_a_finished_run_only_loads(tmp_path: Path) -> None:
    module = Net()
    fit(module, Noisy(), None, run_config(tmp_path))
    other = Net()
    result = fit(other, Noisy(), None, run_config(tmp_path))
    assert result.steps == 12
    assert torch.equal(module.first.weight, other.first.weight)


def test_interrupt_saves_and_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(StopAt(6, signal.SIGINT), Noisy(), None, run_config(tmp_path))
    assert checkpointing.latest(tmp_path) == tmp_path / "checkpoint-3"


def test_non_finite_steps_are_skipped_then_fatal(tmp_path: Path) -> None:
    module = Net()
    module.poison = {3}
    result = fit(module, Noisy(), None, run_config(tmp_path / "one"))
    assert result.skipped_steps == 1
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())
    module = Net()
    module.poison = set(range(7, 100))
    with pytest.raises(DivergenceError, match="step 6"):
        fit(module, Noisy(), None, run_config(tmp_path / "many", max_bad_steps=3))
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_incomplete_checkpoints_do_not_count(tmp_path: Path) -> None:
    fit(Net(), Noisy(), None, run_config(tmp_path), keep_checkpoints=2)
    assert [path.name for path in checkpointing.completed(tmp_path)] == ["checkpoint-8", "checkpoint-12"]
    weights = tmp_path / "checkpoint-12" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert checkpointing.latest(tmp_path) == tmp_path / "checkpoint-8"
    (tmp_path / "checkpoint-8" / checkpointing.MARKER).unlink()
    assert checkpointing.latest(tmp_path) is None
    assert not list(tmp_path.glob(".stage*"))


def test_groups_have_their_own_rates_and_clipping(tmp_path: Path) -> None:
    module = Net()
    before = module.last.weight.detach().clone()

    def groups(net: nn.Module) -> list[dict[str, object]]:
        assert isinstance(net, Net)
        return [
            {"params": list(net.first.parameters()), "lr": 1e-2, "name": "first"},
            {"params": list(net.last.parameters()), "lr": 0.0, "name": "last", "max_grad_norm": 0.5},
        ]

    fit(module, Noisy(), None, run_config(tmp_path), parameter_groups=groups)
    assert torch.equal(before, module.last.weight)
    row = read(tmp_path / "metrics.jsonl")[3]
    assert row["lr_last"] == 0 and row["lr_first"] > 0


def test_the_rate_rises_evenly_then_falls_along_a_cosine(tmp_path: Path) -> None:
    run = run_config(tmp_path, max_steps=20, warmup_ratio=0.2, final_lr_ratio=0.1, gradient_accumulation=1)
    fit(Net(), Noisy(), None, run)
    rates = np.asarray([rate for _, _, rate in losses(tmp_path)])  # after each step: that of the next
    steps = np.arange(1, 21)
    cosine = 0.1 + 0.9 * (1 + np.cos(np.pi * (steps - 4) / 16)) / 2
    np.testing.assert_allclose(rates, 1e-2 * np.where(steps < 4, steps / 4, cosine), rtol=1e-6)


def test_validation_is_logged_and_plotted(tmp_path: Path) -> None:
    seen = []

    def validate(module: nn.Module, step: int) -> dict[str, float]:
        assert not module.training and not torch.is_grad_enabled()
        seen.append(step)
        return {"word_error": 0.5}

    result = fit(Net(), Noisy(), None, run_config(tmp_path, max_steps=6), eval_set=Noisy(5), on_validate=validate)
    assert seen == [6]
    assert result.eval_terms["word_error"] == 0.5 and "loss" in result.eval_terms
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "size", "tokens_per_s", "samples_per_s", "lr", "grad_norm", "time"} <= rows[0].keys()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_lengths_make_batches_alike(tmp_path: Path) -> None:
    from emova_train.data.batches import EpochBatches

    lengths = list(np.random.default_rng(0).integers(1, 100, 400))
    plans = list(EpochBatches(400, 8, 0, total=100, lengths=lengths))
    assert sorted(index for plan in plans[:50] for index in plan.indices) == list(range(400))
    spread = np.mean([np.ptp([lengths[index] for index in plan.indices]) for plan in plans])
    assert spread < 10
    rest = list(EpochBatches(400, 8, 0, total=100, start=60, lengths=lengths))
    assert rest == plans[60:]
