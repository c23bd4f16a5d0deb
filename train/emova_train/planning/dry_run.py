"""``emova train STAGE CONFIG --dry-run``: everything about a stage that can be known before it is started.

The config is read, its batch is divided among the processes, its sets are counted and some of their samples rendered;
the model is built without memory. Nothing is written. What would stop the stage later is a problem now.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import emova.core.compat  # noqa: F401

# isort: split
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.tokens import extend_tokenizer
from emova.model import EmovaConfig, EmovaForConditionalGeneration, EmovaProcessor
from emova.model.building import ModelConfig, build_processor, emova_config
from emova.model.configuration_emova import padded_size
from emova_train.core.config import RunConfig
from emova_train.core.mfu import PEAKS, StepCost, step_cost
from emova_train.core.precision import AUTO, BF16
from emova_train.data.pack_reader import TOKENS
from emova_train.distributed.deepspeed import deepspeed_config
from emova_train.distributed.world import World, resolved
from emova_train.planning.amounts import Amount, Assumed, of_sets, of_shares, of_tasks, pictured
from emova_train.planning.memory import Held, Stack, state
from emova_train.stages.config import StageConfig
from emova_train.stages.lora import add_adapters
from emova_train.stages.origins import PARTS, frozen_at_random, origins
from emova_train.stages.start import freeze
from emova_train.stages.unit_names import unit_name

CODEBOOK = 4096
GIB = 2.0**30


@dataclass(frozen=True)
class Machine:
    """What is trained on: how many processes, the GPU of each, and the share of its arithmetic that is reached.

    The default share is an assumption for models of billions of parameters; a run's ``metrics.jsonl`` has its own.
    """

    processes: int = 1
    gpu: str = "A100"
    mfu: float = 0.35

    def __post_init__(self) -> None:
        if self.processes < 1 or not 0 < self.mfu <= 1:
            raise InputError("--nodes and --processes must be at least 1, --mfu between 0 and 1")
        if self.gpu not in PEAKS:
            raise InputError(f"--gpu {self.gpu}: unknown; it is one of {', '.join(PEAKS)}")


@dataclass(frozen=True)
class Part:
    """A part of the model: parameters in all, those that are trained, and where they come from."""

    name: str
    total: int
    trained: int
    origin: str


@dataclass(frozen=True)
class Plan:
    """What ``plan`` found.

    Attributes:
        run: with accumulation, precision and steps resolved.
        amounts: of an epoch.
        conversations: a step; where packs are counted about so many.
        epochs: of the whole run; 0 where there is no such thing.
        tokens: of the whole run.
        seconds: of training, for the machine that was asked about.
        problems: what would stop it, a line each.
    """

    config: StageConfig
    machine: Machine
    run: RunConfig
    parts: tuple[Part, ...]
    amounts: tuple[Amount, ...]
    conversations: float
    epochs: float
    tokens: float
    pass_tokens: float
    held: Held
    seconds: float
    problems: tuple[str, ...]


def plan(config: StageConfig, machine: Machine) -> Plan:
    """Everything about a stage that can be known before it is started.

    Raises:
        InputError: the config contradicts itself, or its batch cannot be divided among the processes.
    """
    precise = replace(config.run, precision=BF16 if config.run.precision == AUTO else config.run.precision)
    run = resolved(precise, World(0, machine.processes))
    if run.parallel.zero_stage:
        deepspeed_config(run, machine.processes)
    shape, processor, problems = _shape(config)
    began = origins(config)
    problems += frozen_at_random(config, began, pictured(config.data)) + _missing_files(config)
    try:
        unit_name(config, shape.unit_tokenizer)
    except InputError as error:
        problems.append(str(error))
    with torch.device("meta"):
        model = EmovaForConditionalGeneration(shape)
    if config.lora.rank:
        add_adapters(model, config.lora)
    freeze(model, config.rates, config.lora)
    counts = {part: [0, 0] for part in PARTS}
    for name, parameter in model.named_parameters():
        part = "vision" if ".vision_tower." in name else "projector" if ".projector." in name else "llm"
        counts[part][0] += parameter.numel()
        counts[part][1] += parameter.numel() * parameter.requires_grad
    parts = tuple(Part(PARTS[part], counts[part][0], counts[part][1], began[part]) for part in PARTS)

    shapes = load_config(ModelConfig, config.init.model, kind="model")
    most = processor.image_processor.max_tiles if processor is not None else shapes.image.max_tiles
    assumed = Assumed(model.model.projector.config.output_side**2, most)
    counted_in_packs = not run.global_batch_size
    a_step = run.batch_size * run.gradient_accumulation * machine.processes
    if config.data.sets:
        amounts, wrong = of_sets(config.data, processor, assumed, run.seed)
        problems += wrong
        if config.data.shards.shares == TOKENS:
            tokens = float(run.max_steps * a_step * config.data.pack_tokens)
            amounts = of_shares(amounts, config.data.sets, tokens)
    elif not any(weight > 0 for weight in config.data.mixture.values()):
        amounts = []
        problems.append("data: names neither sets nor tasks; give data.sets.NAME=1.0 or data.mixture.TASK=1.0")
    else:
        amounts = of_tasks(config.data, float(run.max_steps * a_step), assumed)
        if not Path(config.data.root).is_dir():
            problems.append(f"data.root={config.data.root}: no such folder; make the recipe's data first")
    whole = sum(each.conversations for each in amounts)
    mean = _mean(amounts)
    conversations = float(a_step)
    if counted_in_packs:
        conversations *= max(1.0, config.data.pack_tokens / max(mean.tokens, 1.0))
    if config.data.sets and run.epochs:
        run = replace(run, max_steps=max(1, -int(-whole * run.epochs // run.global_batch_size)))
    seen = run.max_steps * conversations
    a_pass = conversations / (run.gradient_accumulation * machine.processes)
    held = state(
        run, sum(part.total for part in parts), sum(part.trained for part in parts), machine.processes,
        _activations(config, model, mean, a_pass),
    )  # fmt: skip
    each = _flops(step_cost(model), mean) * (4 / 3 if config.gradient_checkpointing else 1.0)
    seconds = each * seen / (machine.processes * PEAKS[machine.gpu] * machine.mfu)
    epochs = seen / whole if config.data.sets and whole else 0.0
    return Plan(
        config, machine, run, parts, tuple(amounts), conversations, epochs, seen * mean.tokens, a_pass * mean.tokens,
        held, seconds, tuple(problems),
    )  # fmt: skip


def _shape(config: StageConfig) -> tuple[EmovaConfig, EmovaProcessor | None, list[str]]:
    """The model's shape, its processor where there is a tokenizer, and what is missing."""
    init = config.init
    shapes = load_config(ModelConfig, init.model, kind="model")
    missing = []
    tokenizer: PreTrainedTokenizerBase
    if init.checkpoint:
        try:
            shape = EmovaConfig.from_pretrained(init.folder, local_files_only=True)
            return shape, EmovaProcessor.from_pretrained(init.folder, local_files_only=True), []
        except InputError as error:
            missing.append(str(error))
    there = (Path(init.tokenizer) / "tokenizer.json").is_file()
    if there:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(init.tokenizer)
    else:
        if not init.checkpoint:
            missing.append(f"{init.tokenizer}: no tokenizer there; run `emova train tokenizer` first")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
        extend_tokenizer(tokenizer, CODEBOOK)
    shape = emova_config(shapes, tokenizer)
    if not there:
        shape.text_config.vocab_size = padded_size(shapes.text.vocabulary + len(tokenizer))
    return shape, build_processor(shapes, tokenizer) if there else None, missing


_NO_WEIGHTS = "no such file; give the weights' folder, or a name on the hub"


def _missing_files(config: StageConfig) -> list[str]:
    init, found = config.init, []
    for field in ("vision", "speech_tokenizer", "speech_tokenizer_before"):
        folder = getattr(init, field)
        if folder and not Path(folder).is_dir():
            found.append(f"init.{field}={folder}: no such folder; train that part first")
    weights = init.internvit
    if weights and (_only_a_path(weights) or ("/" not in weights and not Path(weights).exists())):
        found.append(f"init.internvit={weights}: {_NO_WEIGHTS}")
    if not init.checkpoint:
        shapes = load_config(ModelConfig, init.model, kind="model")
        for field, name in (
            ("text.pretrained", shapes.text.pretrained),
            ("vision_pretrained", shapes.vision_pretrained),
        ):
            if name and _only_a_path(name):
                found.append(f"{field}={name}: {_NO_WEIGHTS}")
        if shapes.projector_pretrained and not Path(shapes.projector_pretrained).exists():
            found.append(f"projector_pretrained={shapes.projector_pretrained}: no such file; train that part first")
    return found


def _only_a_path(name: str) -> bool:
    """Whether there is no such file, and the hub has no such name: there an owner stands before one slash."""
    return not Path(name).exists() and (name.count("/") > 1 or name.startswith((".", "/", "runs/", "data/")))


def _mean(amounts: Sequence[Amount]) -> Amount:
    """The average conversation of a mixture."""
    whole = sum(each.conversations for each in amounts) or 1.0

    def mean(values: Sequence[float]) -> float:
        return sum(each.conversations * value for each, value in zip(amounts, values, strict=True)) / whole

    return Amount(
        "mean", whole, mean([each.tokens for each in amounts]), mean([each.learnt for each in amounts]),
        mean([each.tiles for each in amounts]), all(each.counted for each in amounts),
        all(each.measured for each in amounts),
    )  # fmt: skip


def _flops(cost: StepCost, mean: Amount) -> float:
    """Operations of an average conversation, forward and back."""
    length = max(1, round(mean.tokens))
    batch = {
        "cu_seq_lens": torch.tensor([0, length]), "input_ids": torch.zeros(1, length), "keep": torch.zeros(length)
    }  # fmt: skip
    without = cost.flops({**batch, "keep": torch.zeros(round(mean.learnt))})
    one = cost.flops({**batch, "keep": torch.zeros(round(mean.learnt)), "pixel_values": torch.zeros(1)})
    return without + (one - without) * mean.tiles


def _activations(config: StageConfig, model: EmovaForConditionalGeneration, mean: Amount, a_pass: float) -> float:
    text, tower = model.config.text_config, model.config.vision.tower
    blocks = len(model.model.vision_tower.layers)
    learning = config.rates.vision > 0
    kept = round(blocks * config.rates.vision_share) if learning else 0
    first = next(iter(model.model.vision_tower.layers))
    ffn = max((each.shape[0] for each in first.parameters() if each.dim() == 2), default=4 * tower.width)
    tokens = a_pass * mean.tokens
    language = Stack(text.num_hidden_layers, text.num_hidden_layers, text.hidden_size, text.intermediate_size, True)
    vision = Stack(blocks, kept, tower.width, ffn, False)
    recomputed = config.gradient_checkpointing
    logits = a_pass * mean.learnt * text.vocab_size * 10.0  # 16 bits, float32 for the loss, and its gradient
    seen = a_pass * mean.tiles * tower.side**2
    return language.activations(tokens, recomputed) + vision.activations(seen, recomputed) + logits


def report(found: Plan, program: str, name: str) -> list[str]:
    """The plan as lines to read."""
    run, machine, held = found.run, found.machine, found.held
    counted = run.global_batch_size > 0
    batch = (
        f"{run.global_batch_size} conversations a step = {machine.processes} processes x {run.batch_size} a pass x "
        f"{run.gradient_accumulation} passes"
        if counted
        else f"{run.batch_size} packs of {found.config.data.pack_tokens} tokens a pass x {run.gradient_accumulation} "
        f"passes x {machine.processes} processes, about {found.conversations:.0f} conversations a step"
    )
    epochs = f"{found.epochs:.2f} epochs" if found.epochs else "tasks drawn without end"
    lines = [
        f"{program}: {name}",
        f"processes    {machine.processes}, {run.parallel.strategy}, {run.precision}",
        f"batch        {batch}",
        f"steps        {run.max_steps:,}: {run.max_steps * found.conversations:,.0f} conversations, {epochs}",
        f"tokens       {_short(found.tokens)} in all, {found.pass_tokens:,.0f} a pass{_how(found.amounts)}",
        f"rates        {_rates(found)}; {run.schedule} to {run.final_lr_ratio:g} of it, warm-up {run.warmup_ratio:g}",
    ]
    for part in found.parts:
        learnt = "frozen" if not part.trained else "trained" if part.trained == part.total else "trained in part"
        share = f", {part.trained:,} of them" if 0 < part.trained < part.total else ""
        lines.append(f"{part.name:<15}{part.total:>15,} parameters, {learnt}{share}; from {part.origin}")
    lines.append(
        f"memory       {held.total / GIB:.1f} GiB a process: weights {held.weights / GIB:.1f}, gradients "
        f"{held.gradients / GIB:.1f}, optimizer {held.optimizer / GIB:.1f}, activations {held.activations / GIB:.1f} "
        "(an estimate)"
    )
    lines.append(
        f"time         {_time(found.seconds)} on {machine.processes} x {machine.gpu} at {machine.mfu:.0%} of their "
        f"arithmetic{', assumed' if machine.mfu == Machine.mfu else ''} "
        f"({found.seconds * machine.processes / 3600:,.0f} GPU hours; --gpu, --mfu)"
    )
    if found.config.data.sets:
        lines.append(f"sets         {sum(each.conversations for each in found.amounts):,.0f} conversations an epoch")
        for each in found.amounts:
            lines.append(
                f"  {each.name:<24}{each.conversations:>12,.0f}  {each.tokens:6,.0f} tokens each  {_counted(each)}"
            )
    return lines


def _counted(amount: Amount) -> str:
    """Where a set's number comes from, and what is not in it."""
    said = "counted here" if amount.counted else "not here: the registry's number, before selection"
    if amount.passes != 1:
        said += f", {amount.passes:g} passes over {amount.conversations / amount.passes:,.0f}"
    if amount.copies or amount.selected:
        said += f"; its conversion left out {amount.copies:,} copies and {amount.selected:,} by selection"
    return said


def _rates(found: Plan) -> str:
    rates = found.config.rates
    given = {"language model": rates.llm, "projector": rates.projector, "vision tower": rates.vision}
    return ", ".join(f"{name} {rate:g}" for name, rate in given.items() if rate > 0)


def _how(amounts: Sequence[Amount]) -> str:
    guessed = [each.name for each in amounts if not each.measured]
    if not guessed:
        return ", by samples"
    return ", lengths assumed" if len(guessed) == len(amounts) else f", lengths of {', '.join(guessed)} assumed"


def _short(number: float) -> str:
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.0f}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def dry_run(program: str, name: str, overrides: Sequence[str], machine: Machine) -> Plan:
    """Read a stage's config, print its plan, and name on stderr what would stop it.

    Raises:
        InputError: the config contradicts itself, or its batch cannot be divided among the processes.
    """
    found = plan(load_config(StageConfig, name, overrides, kind="stages"), machine)
    print("\n".join(report(found, program, name)))
    for problem in found.problems:
        print(f"stops it: {problem}", file=sys.stderr)
    return found


def stops(found: Plan) -> InputError | None:
    """The first problem as the error of the command."""
    if not found.problems:
        return None
    more = len(found.problems) - 1
    return InputError(found.problems[0] + (f" (and {more} more, above)" if more else ""))
