"""One program for the stages of EMOVA (§4.3, Table 2); a YAML file says what is trained, on what, and how fast.

Stage 1 trains the projector alone, stage 2 the language model, the projector and the deeper half of the vision tower on
image-text, speech-text and text together, stage 3 everything on omni-modal instructions. emova-nano's language model
starts from nothing, so a stage 0 (text and speech-text) comes first; a pre-trained one needs no stage 0.

    emova train stage2 nano/stage2 run.max_steps=100
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_model
from torch import Tensor, nn

from emova.checkpoint.loading import load_voice
from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.core.writing import write_text
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova_train.core import checkpointing
from emova_train.core.loop import FitResult, fit
from emova_train.core.mfu import step_cost
from emova_train.core.optimizer import decay_groups, whole_shape
from emova_train.core.program import add_config, run_module, run_training
from emova_train.core.protocols import ParameterGroup
from emova_train.data.mixture import PackedList
from emova_train.data.packing import collate
from emova_train.distributed import world as parallel
from emova_train.planning.amounts import pictured
from emova_train.stages.attention import choose_attention
from emova_train.stages.config import StageConfig
from emova_train.stages.data import stage_data, with_epochs
from emova_train.stages.lora import merge_adapters
from emova_train.stages.losses.auxiliary import AuxiliaryLoss
from emova_train.stages.losses.packed import packed_loss
from emova_train.stages.losses.registry import build_losses
from emova_train.stages.origins import FILE as ORIGINS
from emova_train.stages.origins import after, origins, refuse_random
from emova_train.stages.remembered import remember_frozen_part
from emova_train.stages.start import BEGUN, build, freeze
from emova_train.stages.unit_names import unit_name
from emova_train.stages.validation import Samples


class StageModule(nn.Module):
    """What the engine trains: the model with the packed loss."""

    def __init__(self, model: EmovaForConditionalGeneration, losses: Sequence[AuxiliaryLoss] = ()) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        self.cost = step_cost(model)

    def _codebook_use(self, input_ids: Tensor) -> float:
        """The share of the batch's units that are different ones; low where few units say everything."""
        units = input_ids - self.model.config.speech_first_token_id
        units = units[(units >= 0) & (units < self.model.config.speech_codebook_size)]
        return len(torch.unique(units)) / max(len(units), 1)

    def forward(self, **batch: Tensor) -> dict[str, Tensor | float]:
        asked = sum(len(positions) for each in self.losses for _, positions in each.asks(batch))
        return {
            **packed_loss(self.model, batch, self.losses),
            "tokens": batch["input_ids"].shape[1],
            "samples": batch["cu_seq_lens"].shape[0] - 1,
            "flops": self.cost.flops(batch, asked),
            "codebook_use": self._codebook_use(batch["input_ids"]),
        }

    @staticmethod
    def loss_weight(batch: Mapping[str, Tensor]) -> Tensor:
        """How much a batch counts in its step: the sum of its positions' weights."""
        return batch["weights"].sum()


Validation = Callable[[EmovaForConditionalGeneration, EmovaProcessor, int], Mapping[str, float]]
"""What else is measured of a stage's model at a step, as figures by name."""


def train(config: StageConfig, on_validate: Validation | None = None) -> FitResult:
    """Run a stage; the checkpoint (model and processor) is exported to ``run.output_dir``/export.

    Args:
        on_validate: asked at each validation, the last one too.

    Raises:
        InputError: data, an initial checkpoint or a mixture is wrong.
    """
    world = parallel.start(config.run.parallel)
    run = parallel.resolved(config.run, world)
    began = origins(config)
    refuse_random(config, began, pictured(config.data))
    model, processor = build(config, world)
    units = unit_name(config, model.config.unit_tokenizer)
    data = stage_data(
        config.data,
        config.samples,
        processor,
        context=model.config.text_config.max_position_embeddings,
        packs=run.max_steps * run.gradient_accumulation * run.batch_size * world.size,
        seed=config.run.seed,
        conversations=bool(run.global_batch_size),
    )
    run = with_epochs(run, data.train_set)
    output = Path(config.run.output_dir)
    trained = freeze(model, config.rates, config.lora)
    if world.size == 1:  # of a sharded tower every rank has to compute the same parts
        remember_frozen_part(model.model.vision_tower)
    losses = build_losses(config.losses, model, processor)
    if world.main:
        output.mkdir(parents=True, exist_ok=True)
        refuse_other_weights(output, config)
        save_config(replace(config, run=replace(config.run, max_steps=run.max_steps)), output / "config.yaml")
        for name, share in data.shares.items():
            print(f"{name}: share {share:.3f} of the samples", file=sys.stderr)
        for part, own in trained.items():
            print(f"{part}: {sum(whole_shape(p).numel() for _, p in own):,} parameters trained", file=sys.stderr)
    voice = load_voice(config.samples.voice) if config.samples.voice else None
    samples = Samples(config.samples, data.tries, data.writer, output, voice)

    def groups(module: nn.Module) -> list[ParameterGroup]:
        # By name: sharding may have put other parameters in their place.
        present = dict(module.named_parameters())
        made: list[ParameterGroup] = []
        for part, own in trained.items():
            holder = nn.ParameterList(present[f"model.{name}"] for name, _ in own)
            rate = getattr(config.rates, part)
            made += decay_groups(holder, config.run.weight_decay, lr=rate)
            made[-1]["name"] = part
        return made

    def validate(module: nn.Module, step: int) -> Mapping[str, float]:
        model.set_attn_implementation("sdpa")
        try:
            figures = samples.write(model, step)
            return {**figures, **on_validate(model, processor, step)} if on_validate else figures
        finally:
            model.set_attn_implementation(choose_attention(config.attention))

    result = fit(
        StageModule(model, losses),
        data.train_set,
        lambda drawn: collate(drawn, config.weights, losses),
        run,
        eval_set=PackedList(data.held_out, config.data.pack_tokens) if data.held_out else None,
        parameter_groups=groups,
        on_validate=validate,
    )
    if world.main:
        if result.weights is not None:  # no process holds the whole model: read what was gathered for the checkpoint
            model, _ = build(config)
            load_model(StageModule(model), str(result.weights))
        if config.lora.rank:
            merge_adapters(model)
        model.config.unit_tokenizer = units
        model.config.reading_spelling = config.data.spelling or model.config.reading_spelling
        export(model, processor, output / "export", after(began, config))
        shutil.rmtree(output / BEGUN, ignore_errors=True)
    world.barrier()
    return result


def refuse_other_weights(output: Path, config: StageConfig) -> None:
    """A run that goes on takes the same loss: its weights by kind are those that it began with.

    Raises:
        InputError: they are others.
    """
    if not config.run.resume or checkpointing.latest(output) is None:
        return
    try:
        began = yaml.safe_load((output / "config.yaml").read_text(encoding="utf-8"))["weights"]
        pairs = [(name, float(began[name]), value) for name, value in asdict(config.weights).items() if name in began]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        return  # nothing is known of its beginning
    other = [f"weights.{name}={before:g}" for name, before, now in pairs if before != now]
    if other:
        raise InputError(
            f"{output}: began with {' '.join(other)}; give that to go on with it, or another run.output_dir"
        )


def export(
    model: EmovaForConditionalGeneration,
    processor: EmovaProcessor,
    folder: Path,
    began: Mapping[str, str] | None = None,
) -> None:
    """Write model and processor as a folder that ``from_pretrained`` and the next stage read, whole or not at all.

    Args:
        began: where each part's weights come from (``emova_train.stages.origins``).

    Raises:
        InputError: the disk is full.
    """
    model.requires_grad_(True)
    model.set_attn_implementation("sdpa")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # one shard; its bar would only break the lines of the run
    with (
        checkpointing.one_line(f"{folder}: the trained model", "the run's checkpoints are"),
        checkpointing.staged_folder(folder) as staged,
    ):
        model.save_pretrained(staged)
        processor.save_pretrained(staged)
        if began is not None:
            write_text(staged / ORIGINS, json.dumps(began))


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train stage1`` and its kin."""
    add_config(parser, "nano/stage2")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    config = load_config(StageConfig, arguments.config, arguments.overrides, kind="stages")
    return run_training(train, config, config.run.parallel)


def main() -> int:
    return run_module(register, "emova_train.stages.program", __doc__.split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())
