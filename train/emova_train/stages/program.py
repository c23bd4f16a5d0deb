"""One program for the stages of EMOVA (§4.3, Table 2); a YAML file says what is trained, on what, and how fast.

Stage 1 trains the projector alone, stage 2 the language model, the projector and the deeper half of the vision tower on
image-text, speech-text and text together, stage 3 everything on omni-modal instructions. emova-nano's language model
starts from nothing, so a stage 0 (text and speech-text) comes first; a pre-trained one needs no stage 0.

    python -m emova_train.stages.program configs/stages/nano/stage2.yaml run.max_steps=100
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import emova.core.compat  # noqa: F401

# isort: split
import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from emova.checkpoint.loading import load_voice
from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova.model.building import ModelConfig, build_model, build_processor, load_vision
from emova_train.core import checkpointing
from emova_train.core.config import RunConfig
from emova_train.core.loop import FitResult, fit
from emova_train.core.mfu import step_cost
from emova_train.core.optimizer import decay_groups, whole_shape
from emova_train.core.program import run_module
from emova_train.data.batches import isolated_rng
from emova_train.data.mixture import PackedList
from emova_train.data.packing import PACKED_ATTENTION, LossWeights, collate, packed_loss
from emova_train.data.shape_padding import fill_up
from emova_train.distributed import world as parallel
from emova_train.distributed.sharding import partitioned
from emova_train.distributed.world import World
from emova_train.stages.data import DataConfig, stage_data
from emova_train.stages.lora import LoraConfig, add_adapters, learns, merge_adapters
from emova_train.stages.losses.ctc import HeardTextConfig
from emova_train.stages.losses.grounding import SeenWordsConfig
from emova_train.stages.tasks import THOUGHTS_TASKS
from emova_train.stages.validation import SampleConfig, Samples
from emova_train.vision.internvit_weights import load_internvit


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
    internvit: str = ""
    """Published InternViT weights for the tower alone: a folder, or a name on the hub."""
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
class StageConfig:
    """A stage; the files are in ``configs/stages``."""

    run: RunConfig = field(default_factory=RunConfig)
    init: InitConfig = field(default_factory=InitConfig)
    rates: RatesConfig = field(default_factory=RatesConfig)
    data: DataConfig = field(default_factory=DataConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    heard_text: HeardTextConfig = field(default_factory=HeardTextConfig)
    seen_words: SeenWordsConfig = field(default_factory=SeenWordsConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    attention: str = "auto"
    """``emova_packed``, ``flash_attention_2`` or ``sdpa``; auto: flash attention on a GPU that has it, else packed."""
    gradient_checkpointing: bool = False
    """Compute activations anew in the backward pass: a third more work for a fraction of the memory."""
    tiles_at_once: int = 0
    """The tiles of a pass are filled up to a multiple of it (``emova_train.data.shape_padding``); 0 takes as many as
    there are."""
    liger: str = "auto"
    """Liger's fused kernels in the LLaMA: ``auto`` where they are installed on a GPU, ``always``, ``never``."""

    def __post_init__(self) -> None:
        if self.liger not in ("auto", "always", "never"):
            raise InputError(f"liger={self.liger}: unknown; give auto, always or never")


class StageModule(nn.Module):
    """What the engine trains: the model with the packed loss."""

    def __init__(
        self,
        model: EmovaForConditionalGeneration,
        heard_text: HeardTextConfig | None = None,
        seen_words: SeenWordsConfig | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.heard_text = heard_text
        self.seen_words = seen_words
        self.cost = step_cost(model)

    def _codebook_use(self, input_ids: Tensor) -> float:
        """The share of the batch's units that are different ones; low where few units say everything."""
        units = input_ids - self.model.config.speech_first_token_id
        units = units[(units >= 0) & (units < self.model.config.speech_codebook_size)]
        return len(torch.unique(units)) / max(len(units), 1)

    def forward(self, **batch: Tensor) -> dict[str, Any]:
        terms: dict[str, Any] = packed_loss(self.model, batch, self.heard_text, self.seen_words)
        terms["tokens"] = batch["input_ids"].shape[1]
        terms["samples"] = batch["cu_seq_lens"].shape[0] - 1
        listens = self.heard_text is not None and self.heard_text.weight > 0
        terms["flops"] = self.cost.flops(batch, listens)
        terms["codebook_use"] = self._codebook_use(batch["input_ids"])
        return terms

    @staticmethod
    def loss_weight(batch: Mapping[str, Tensor]) -> Tensor:
        """How much a batch counts in its step: the sum of its positions' weights."""
        return batch["weights"].sum()


def choose_attention(wanted: str) -> str:
    """The attention implementation for packed rows."""
    if wanted != "auto":
        return wanted
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else PACKED_ATTENTION


def use_liger(model: EmovaForConditionalGeneration, wanted: str) -> bool:
    """Put Liger's fused kernels into the LLaMA where ``wanted`` says so; whether they are used.

    Raises:
        InputError: they are asked for and not installed.
    """
    if wanted == "never" or (wanted == "auto" and not torch.cuda.is_available()):
        return False
    try:
        from liger_kernel.transformers import apply_liger_kernel_to_llama
    except ImportError:
        if wanted == "always":
            raise InputError("liger=always: it is not installed; pip install liger-kernel, or give auto") from None
        return False
    # The loss stays ours: it weighs each position.
    apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=False, model=model.model.language_model)
    return True


def build(config: StageConfig, world: World | None = None) -> tuple[EmovaForConditionalGeneration, EmovaProcessor]:
    """The model and processor that the stage starts from.

    Args:
        world: the processes that train together. Where ZeRO-3 splits the weights over them, a checkpoint's are split
            while they are read, so that no process ever holds all.

    Raises:
        InputError: a folder is missing, damaged, or does not fit.
    """
    init = config.init
    changed = bool(init.vision or init.internvit or init.speech_tokenizer)  # which needs whole weights
    spread = partitioned(config.run, world) if world is not None and not changed else nullcontext()
    with isolated_rng(config.run.seed):
        if init.checkpoint:
            if not (Path(init.checkpoint) / "config.json").is_file():
                raise InputError(f"{init.checkpoint}: no checkpoint there; run the stage before, or name its export")
            with spread:
                model = EmovaForConditionalGeneration.from_pretrained(
                    init.checkpoint, dtype=torch.float32, local_files_only=True
                )
            processor = EmovaProcessor.from_pretrained(init.checkpoint, local_files_only=True)
        else:
            if not (Path(init.tokenizer) / "tokenizer.json").is_file():
                raise InputError(
                    f"{init.tokenizer}: no tokenizer there; run `python -m emova_train.stages.text_tokenizer` first"
                )
            shapes = load_config(ModelConfig, init.model)
            tokenizer = PreTrainedTokenizerFast.from_pretrained(init.tokenizer)
            model, processor = build_model(shapes, tokenizer), build_processor(shapes, tokenizer)
        if init.speech_tokenizer:
            start_units(model, init, config.run.seed)
        if init.vision:
            load_vision(model, init.vision)
        if init.internvit:
            load_internvit(model.model.vision_tower, init.internvit)
        if config.lora.rank:
            add_adapters(model, config.lora)
    heard, seen, depth = config.heard_text, config.seen_words, model.config.text_config.num_hidden_layers
    for part, name, layer, weight in (
        ("heard_text", "layer", heard.layer, heard.weight),
        ("seen_words", "word_layer", seen.word_layer, seen.weight),
    ):
        if weight > 0 and layer >= depth:
            raise InputError(
                f"{part}.{name}={layer}: the language model has {depth} layers and the loss is taken before the last; "
                f"give 1 to {depth - 1}, or {part}.weight=0"
            )
    heads = model.config.text_config.num_attention_heads
    if seen.weight > 0 and seen.heads > heads:
        raise InputError(
            f"seen_words.heads={seen.heads}: the language model has {heads} in a layer; give at most these"
        )
    if config.heard_text.weight > 0:
        model.config.ctc_layer = config.heard_text.layer
    if any(config.data.mixture.get(task, 0) > 0 for task in THOUGHTS_TASKS):
        ratio = config.data.conversations.thoughts.ratio
        model.config.thoughts_ratio = [ratio.text_tokens, ratio.units]
    model.set_attn_implementation(choose_attention(config.attention))
    use_liger(model, config.liger)
    if config.tiles_at_once:
        for part in (model.model.vision_tower, model.model.projector):
            fill_up(part, config.tiles_at_once)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if world is not None and world.size > 1:
        # A process without a picture still runs tower and projector: the others wait for it (DeepSpeed issue 7170).
        model.config.always_run_vision = True
    return model, processor


def start_units(model: EmovaForConditionalGeneration, init: InitConfig, seed: int) -> None:
    """Start the units' embeddings from the phones that they stand for."""
    from emova.speech.tokenizer.s2u import S2UTokenizer
    from emova_train.stages.unit_embeddings import carried_over, unit_embeddings

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


def freeze(
    model: EmovaForConditionalGeneration, rates: RatesConfig, lora: LoraConfig | None = None
) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Freeze what has no rate; the trainable parameters of each part, by name."""
    lora = lora or LoraConfig()
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
        if getattr(rates, part) > 0 and id(parameter) not in shallow and (part != "llm" or learns(name, lora)):
            parameter.requires_grad_(True)
            parts[part].append((name, parameter))
    trained = {part: own for part, own in parts.items() if own}
    if not trained:
        raise InputError("rates: every part is frozen; give one of projector, llm, vision a learning rate")
    return trained


def train(config: StageConfig) -> FitResult:
    """Run a stage; the checkpoint (model and processor) is exported to ``run.output_dir``/export.

    Raises:
        InputError: data, an initial checkpoint or a mixture is wrong.
    """
    world = parallel.start(config.run.parallel)
    run = parallel.resolved(config.run, world)
    model, processor = build(config, world)
    data = stage_data(
        config.data,
        config.samples,
        processor,
        context=model.config.text_config.max_position_embeddings,
        packs=run.max_steps * run.gradient_accumulation * run.batch_size * world.size,
        seed=config.run.seed,
    )
    output = Path(config.run.output_dir)
    trained = freeze(model, config.rates, config.lora)
    if world.main:
        output.mkdir(parents=True, exist_ok=True)
        save_config(config, output / "config.yaml")
        for name, share in data.shares.items():
            print(f"{name}: share {share:.3f} of the samples", file=sys.stderr)
        for part, own in trained.items():
            print(f"{part}: {sum(whole_shape(p).numel() for _, p in own):,} parameters trained", file=sys.stderr)
    voice = load_voice(config.samples.voice) if config.samples.voice else None
    samples = Samples(config.samples, data.tries, data.writer, output, voice)

    def groups(module: nn.Module) -> list[dict[str, Any]]:
        # By name: sharding may have put other parameters in their place.
        present = dict(module.named_parameters())
        made = []
        for part, own in trained.items():
            holder = nn.ParameterList(present[f"model.{name}"] for name, _ in own)
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
        StageModule(model, config.heard_text, config.seen_words),
        data.train_set,  # type: ignore[arg-type]
        lambda drawn: collate(drawn, config.weights),
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
        export(model, processor, output / "export")
    world.barrier()
    return result


def export(model: EmovaForConditionalGeneration, processor: EmovaProcessor, folder: Path) -> None:
    """Write model and processor as a folder that ``from_pretrained`` and the next stage read, whole or not at all.

    Raises:
        InputError: the disk is full.
    """
    model.requires_grad_(True)
    model.set_attn_implementation("sdpa")
    disable_progress_bar()  # one shard; its bar would only break the lines of the run
    with (
        checkpointing.one_line(f"{folder}: the trained model", "the run's checkpoints are"),
        checkpointing.staged_folder(folder) as staged,
    ):
        model.save_pretrained(staged)
        processor.save_pretrained(staged)


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train stage1`` and its kin."""
    parser.add_argument("config", help="a YAML file such as configs/stages/nano/stage2.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as run.max_steps=200")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    config = load_config(StageConfig, arguments.config, arguments.overrides)
    result = train(config)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in result.eval_terms.items())
    if parallel.start(config.run.parallel).main:
        print(f"{result.steps} steps, {result.seconds:.0f} s; {shown}")
    parallel.stop()
    return 0


def main() -> int:
    return run_module(register, "emova_train.stages.program", __doc__.split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())
