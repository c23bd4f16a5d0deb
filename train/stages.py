"""One program for the stages of EMOVA (§4.3, Table 2); a YAML file says what is trained, on what, and how fast.

Stage 1 trains the projector alone, stage 2 the language model, the projector and the deeper half of the vision tower on
image-text, speech-text and text together, stage 3 everything on omni-modal instructions. emova-nano's language model
starts from nothing, so a stage 0 (text and speech-text) comes first; a pre-trained one needs no stage 0.

    python -m train.stages configs/stages/nano/stage2.yaml run.max_steps=100
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import emova.compat  # noqa: F401

# isort: split
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from emova.config import load_config, save_config
from emova.errors import InputError
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova.model.building import ModelConfig, build_model, build_processor, load_vision
from train.batches import isolated_rng
from train.conversations import SPEECH_TASKS, ConversationConfig, Conversations
from train.dataset import PackedList, PackedMixture
from train.engine import FitResult, RunConfig, decay_groups, fit
from train.packing import PACKED_ATTENTION, LossWeights, Piece, collate, packed_loss
from train.program import run_module
from train.recipe_data import read_recipe
from train.stage_samples import SampleConfig, Samples


@dataclass(frozen=True)
class InitConfig:
    """What a stage starts from."""

    checkpoint: str = ""
    """An earlier stage's export; ``model`` and ``tokenizer`` then count for nothing."""
    model: str = "configs/model/nano.yaml"
    """Shapes; the LLaMA is pre-trained where ``text.pretrained`` names one."""
    tokenizer: str = "runs/tokenizer-nano"
    vision: str = ""
    """A vision pre-training's export for tower and projector."""
    speech_tokenizer: str = ""
    """An S2U export whose phone decoder says which units sound alike; their embeddings start alike."""
    speech_tokenizer_before: str = ""
    """The S2U export of the units that ``checkpoint`` learnt, when ``speech_tokenizer`` is another."""


@dataclass(frozen=True)
class RatesConfig:
    """Peak learning rate of each part; 0 freezes it."""

    projector: float = 0.0
    llm: float = 0.0
    vision: float = 0.0
    vision_share: float = 1.0
    """The share of the tower's blocks, from the deep end, that is trained; below 1 what comes before them is frozen."""


@dataclass(frozen=True)
class DataConfig:
    """What a stage learns from."""

    root: str = "data/nano"
    mixture: dict[str, float] = field(default_factory=dict)
    """Weight of each task, in samples: caption, picture_text, talk_text, asr, tts, spoken_talk, spoken_picture,
    thoughts_talk, thoughts_picture."""
    heard: list[str] = field(default_factory=lambda: ["question"])
    """Sets of units for ``asr``."""
    said: list[str] = field(default_factory=lambda: ["answer"])
    """Sets of units for ``tts``."""
    pack_tokens: int = 1024
    max_tokens: int = 1024
    conversations: ConversationConfig = field(default_factory=ConversationConfig)


@dataclass(frozen=True)
class StageConfig:
    """A stage; the files are in ``configs/stages``."""

    run: RunConfig = field(default_factory=RunConfig)
    init: InitConfig = field(default_factory=InitConfig)
    rates: RatesConfig = field(default_factory=RatesConfig)
    data: DataConfig = field(default_factory=DataConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    samples: SampleConfig = field(default_factory=SampleConfig)
    attention: str = "auto"
    """``emova_packed``, ``flash_attention_2`` or ``sdpa``; auto: flash attention on a GPU that has it, else packed."""


class StageModule(nn.Module):
    """What the engine trains: the model with the packed loss."""

    def __init__(self, model: EmovaForConditionalGeneration) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: Tensor) -> dict[str, Any]:
        terms: dict[str, Any] = packed_loss(self.model, batch)
        terms["tokens"] = batch["input_ids"].shape[1]
        terms["samples"] = batch["cu_seq_lens"].shape[0] - 1
        return terms


def choose_attention(wanted: str) -> str:
    """The attention implementation for packed rows."""
    if wanted != "auto":
        return wanted
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else PACKED_ATTENTION


def build(config: StageConfig) -> tuple[EmovaForConditionalGeneration, EmovaProcessor]:
    """The model and processor that the stage starts from.

    Raises:
        InputError: a folder is missing, damaged, or does not fit.
    """
    init = config.init
    with isolated_rng(config.run.seed):
        if init.checkpoint:
            if not (Path(init.checkpoint) / "config.json").is_file():
                raise InputError(f"{init.checkpoint}: no checkpoint there; run the stage before, or name its export")
            model = EmovaForConditionalGeneration.from_pretrained(
                init.checkpoint, dtype=torch.float32, local_files_only=True
            )
            processor = EmovaProcessor.from_pretrained(init.checkpoint, local_files_only=True)
        else:
            if not (Path(init.tokenizer) / "tokenizer.json").is_file():
                raise InputError(f"{init.tokenizer}: no tokenizer there; run `python -m train.text_tokenizer` first")
            shapes = load_config(ModelConfig, init.model)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(init.tokenizer)
            model, processor = build_model(shapes, tokenizer), build_processor(shapes, tokenizer)
        if init.speech_tokenizer:
            start_units(model, init, config.run.seed)
        if init.vision:
            load_vision(model, init.vision)
    model.set_attn_implementation(choose_attention(config.attention))
    return model, processor


def start_units(model: EmovaForConditionalGeneration, init: InitConfig, seed: int) -> None:
    """Start the units' embeddings from the phones that they stand for."""
    from emova.speech.tokenizer.s2u import S2UTokenizer
    from train.unit_embeddings import carried_over, unit_embeddings

    tokenizer = S2UTokenizer.from_pretrained(init.speech_tokenizer)
    wanted = model.config.speech_codebook_size
    if tokenizer.codebook_size != wanted:
        raise InputError(f"{init.speech_tokenizer}: its codebook has {tokenizer.codebook_size} units, not {wanted}")
    table = model.get_input_embeddings().weight
    own = slice(model.config.speech_first_token_id, model.config.speech_first_token_id + wanted)
    if init.speech_tokenizer_before:
        before = S2UTokenizer.from_pretrained(init.speech_tokenizer_before)
        rows = carried_over(table[own].detach(), before, tokenizer, seed)
    else:
        rows = unit_embeddings(tokenizer, table.shape[1], model.config.text_config.initializer_range, seed)
    with torch.no_grad():
        table[own] = rows.to(table.dtype)


def freeze(model: EmovaForConditionalGeneration, rates: RatesConfig) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Freeze what has no rate; the trainable parameters of each part, by name."""
    model.requires_grad_(False)
    tower = model.model.vision_tower
    frozen = 0 if rates.vision_share >= 1 else round(len(tower.layers) * (1 - rates.vision_share))
    shallow: set[int] = set()
    if frozen:
        deep = {id(parameter) for block in tower.layers[frozen:] for parameter in block.parameters()}
        # A last norm comes after the blocks: it is deep too.
        deep |= {id(p) for name, p in tower.named_parameters() if name.startswith(("norm.", "vit.norm.", "fc_norm."))}
        shallow = {id(parameter) for parameter in tower.parameters()} - deep
    parts: dict[str, list[tuple[str, nn.Parameter]]] = {"llm": [], "projector": [], "vision": []}
    for name, parameter in model.named_parameters():
        part = "vision" if ".vision_tower." in name else "projector" if ".projector." in name else "llm"
        if getattr(rates, part) > 0 and id(parameter) not in shallow:
            parameter.requires_grad_(True)
            parts[part].append((name, parameter))
    trained = {part: own for part, own in parts.items() if own}
    if not trained:
        raise InputError("rates: every part is frozen; give one of projector, llm, vision a learning rate")
    return trained


def evaluation_pieces(conversations: Conversations, mixture: dict[str, float], count: int) -> list[Piece]:
    """``count`` held-out samples of every task in the mixture that has any."""
    import numpy as np

    pieces = []
    for number, (name, weight) in enumerate(mixture.items()):
        task = conversations.tasks[name]
        rng = np.random.default_rng([7, number])
        pieces += [conversations.render(task.draw(rng), name) for _ in range(count if weight > 0 and task.size else 0)]
    return pieces


def train(config: StageConfig) -> FitResult:
    """Run a stage; the checkpoint (model and processor) is exported to ``run.output_dir``/export.

    Raises:
        InputError: data, an initial checkpoint or a mixture is wrong.
    """
    data = config.data
    model, processor = build(config)
    limit = min(data.max_tokens, model.config.text_config.max_position_embeddings)
    speech = any(weight > 0 for task, weight in data.mixture.items() if task in SPEECH_TASKS)
    read = partial(read_recipe, data.root, speech=speech, heard=data.heard, said=data.said)
    conversations = Conversations(read("train"), processor, data.conversations)
    steps = config.run.max_steps * config.run.gradient_accumulation * config.run.batch_size
    packs = PackedMixture(
        conversations,
        data.mixture,
        pack_tokens=data.pack_tokens,
        max_tokens=limit,
        size=min(steps, 10000),
        seed=config.run.seed,
    )
    held_out = Conversations(read("test"), processor, ConversationConfig(unit_noise=0.0))
    pieces = evaluation_pieces(held_out, data.mixture, config.samples.losses_over)
    output = Path(config.run.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    save_config(config, output / "config.yaml")
    trained = freeze(model, config.rates)
    for task in packs.tasks:
        print(
            f"{task.name}: {task.size} to draw from, share {packs.shares[packs.tasks.index(task)]:.3f}", file=sys.stderr
        )
    for part, own in trained.items():
        print(f"{part}: {sum(p.numel() for _, p in own):,} parameters trained", file=sys.stderr)
    samples = Samples(config.samples, held_out, data.mixture, output / "samples.jsonl")

    def groups(_: nn.Module) -> list[dict[str, Any]]:
        made = []
        for part, own in trained.items():
            holder = nn.ParameterList(parameter for _, parameter in own)
            rate = getattr(config.rates, part)
            made += decay_groups(holder, config.run.weight_decay, lr=rate)
            made[-1]["name"] = part
        return made

    def validate(module: nn.Module, step: int) -> Mapping[str, float]:
        model.set_attn_implementation("sdpa")
        try:
            return samples.write(model, step)
        finally:
            model.set_attn_implementation(choose_attention(config.attention))

    result = fit(
        StageModule(model),
        packs,  # type: ignore[arg-type]
        lambda drawn: collate(drawn, config.weights),
        config.run,
        eval_set=PackedList(pieces, data.pack_tokens) if pieces else None,
        parameter_groups=groups,
        on_validate=validate,
    )
    export(model, processor, output / "export")
    return result


def export(model: EmovaForConditionalGeneration, processor: EmovaProcessor, folder: Path) -> None:
    """Write model and processor as a folder that ``from_pretrained`` and the next stage read."""
    model.requires_grad_(True)
    model.set_attn_implementation("sdpa")
    disable_progress_bar()  # one shard; its bar would only break the lines of the run
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train stage1`` and its kin."""
    parser.add_argument("config", help="a YAML file such as configs/stages/nano/stage2.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as run.max_steps=200")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    result = train(load_config(StageConfig, arguments.config, arguments.overrides))
    shown = "  ".join(f"{name} {value:.4g}" for name, value in result.eval_terms.items())
    print(f"{result.steps} steps, {result.seconds:.0f} s; {shown}")
    return 0


def main() -> int:
    return run_module(register, "train.stages", __doc__.split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())
