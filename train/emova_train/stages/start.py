"""What a stage starts from: the model and its processor, and which of its parameters learn."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import emova.core.compat  # noqa: F401

# isort: split
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import LlamaModel, PreTrainedTokenizerFast

from emova.checkpoint.loading import find_checkpoint
from emova.checkpoint.registry import REPLY_FORMATS
from emova.core.config import load_config
from emova.core.errors import InputError
from emova.core.writing import write_text
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova.model.building import ModelConfig, build_model, build_processor, load_vision
from emova_train.core import checkpointing, renamed
from emova_train.data.batches import isolated_rng
from emova_train.data.shape_padding import fill_up
from emova_train.distributed.sharding import partitioned
from emova_train.distributed.world import World
from emova_train.stages.attention import choose_attention
from emova_train.stages.config import InitConfig, RatesConfig, StageConfig
from emova_train.stages.dropout import drop_hidden_states
from emova_train.stages.lora import LoraConfig, add_adapters, learns
from emova_train.stages.losses.registry import build_losses
from emova_train.stages.tasks import INTERLEAVED_TASKS
from emova_train.vision.internvit_weights import load_internvit
from emova_train.vision.pretrained import load_pretrained

BEGUN, _ASKED = "start", "asked.json"
SPLIT = 3
"""The stage of ZeRO that splits the weights."""


def build(config: StageConfig, world: World | None = None) -> tuple[EmovaForConditionalGeneration, EmovaProcessor]:
    """The model and processor that the stage starts from.

    Args:
        world: the processes that train together. Where ZeRO-3 splits the weights over them, they are split while they
            are read: those of a checkpoint as it is, others from what the first process has put together.

    Raises:
        InputError: a folder is missing, damaged, or does not fit.
    """
    init = config.init
    changed = bool(init.vision or init.internvit or init.speech_tokenizer)  # which needs whole weights
    with isolated_rng(config.run.seed):
        if world is not None and config.run.parallel.zero_stage == SPLIT and (changed or not init.checkpoint):
            model, processor = _read(_begun(config, world), config, world)
        elif init.checkpoint and not changed:
            model, processor = _read(init.folder, config, world)
        else:
            model, processor = _whole(config)
        if config.lora.rank:
            add_adapters(model, config.lora)
    build_losses(config.losses, model, processor)  # which checks that the model has their layers
    if any(weight > 0 and renamed.task(task) in INTERLEAVED_TASKS for task, weight in config.data.mixture.items()):
        options = config.data.conversations.interleaved.options
        model.config.reply_config = {**model.config.reply_config, "interleaved": options}
    records = config.data.shards.records
    if config.data.sets and records.replies:  # all of its replies are so, which makes it the model's own format
        kind = REPLY_FORMATS.name(records.replies)
        model.config.reply_config = {**model.config.reply_config, "kind": kind, kind: records.interleaved.options}
    model.set_attn_implementation(choose_attention(config.attention))
    use_liger(model, config.liger)
    if config.hidden_dropout:
        drop_hidden_states(model, config.hidden_dropout)
    if config.tiles_at_once:
        for part in (model.model.vision_tower, model.model.projector):
            fill_up(part, config.tiles_at_once)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if world is not None and world.size > 1:
        # A process without a picture still runs tower and projector: the others wait for it (DeepSpeed issue 7170).
        model.config.always_run_vision = True
    return model, processor


def _read(
    folder: Path, config: StageConfig, world: World | None
) -> tuple[EmovaForConditionalGeneration, EmovaProcessor]:
    """A checkpoint, split while it is read where ZeRO-3 splits the weights."""
    with partitioned(config.run, world) if world is not None else nullcontext():
        model = EmovaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model, EmovaProcessor.from_pretrained(folder, local_files_only=True)


def _whole(config: StageConfig) -> tuple[EmovaForConditionalGeneration, EmovaProcessor]:
    """What the stage starts from as one model, of whatever its parts come from."""
    init = config.init
    if init.checkpoint:
        model, processor = _read(init.folder, config, None)
    else:
        if not (Path(init.tokenizer) / "tokenizer.json").is_file():
            raise InputError(f"{init.tokenizer}: no tokenizer there; run `emova train tokenizer` first")
        shapes = load_config(ModelConfig, init.model, kind="model")
        tokenizer = PreTrainedTokenizerFast.from_pretrained(init.tokenizer)
        model = build_model(shapes, tokenizer)
        if shapes.vision_pretrained:
            seen = load_pretrained(model.model.vision_tower, shapes.vision, shapes.vision_pretrained)
            if seen is not None:
                shapes = replace(shapes, image=replace(shapes.image, mean=list(seen.mean), std=list(seen.std)))
        if shapes.projector_pretrained:
            load_projector(model.model.projector, shapes.projector_pretrained)
        processor = build_processor(shapes, tokenizer)
    if init.speech_tokenizer:
        start_units(model, init, config.run.seed)
    if init.vision:
        load_vision(model, init.vision)
    if init.internvit:
        load_internvit(model.model.vision_tower, init.internvit)
    return model, processor


def _begun(config: StageConfig, world: World) -> Path:
    """The folder in which the first process has put together what the stage starts from, for all to read it split.

    A LLaMA that grows and a tower that is filled need their whole weights: one process has them for a moment, and no
    other ever does. The folder goes when the stage has ended.
    """
    folder = Path(config.run.output_dir) / BEGUN
    asked = json.dumps([asdict(config.init), config.run.seed])
    if world.main and _asked(folder) != asked:
        model, processor = _whole(config)
        with (
            checkpointing.one_line(f"{folder}: what the stage starts from", "nothing is"),
            checkpointing.staged_folder(folder) as staged,
        ):
            model.save_pretrained(staged)
            processor.save_pretrained(staged)
            write_text(staged / _ASKED, asked)
        del model
    with world.patience(config.run.parallel):
        world.barrier()
    return folder


def _asked(folder: Path) -> str:
    try:
        return (folder / _ASKED).read_text(encoding="utf-8")
    except OSError:
        return ""


def load_projector(projector: nn.Module, name: str) -> None:
    """Copy the weights of ``projector_pretrained`` into ``projector``, all of them, in float32.

    Args:
        name: a stage's export, a vision pre-training's, or a safetensors file with the projector's own names.

    Raises:
        InputError: there are none, or they are of another shape.
    """
    path = Path(name)
    try:
        files = [path] if path.is_file() else sorted(find_checkpoint(name).glob("*.safetensors"))
        found = {key: tensor for file in files for key, tensor in load_file(file).items()}
    except (OSError, SafetensorError):
        raise InputError(
            f"projector_pretrained={name}: damaged; give a stage's export, or a safetensors file"
        ) from None
    marked = {key.rpartition("projector.")[2]: tensor for key, tensor in found.items() if "projector." in key}
    state, own = marked or found, projector.state_dict()
    for key in sorted(set(own) | set(state)):
        if key not in own or key not in state or own[key].shape != state[key].shape:
            raise InputError(
                f"projector_pretrained={name}: {key} is missing or of another shape; give the shape that it was "
                "trained with in the model's `projector`"
            )
    projector.load_state_dict({key: tensor.float() for key, tensor in state.items()})


def start_units(model: EmovaForConditionalGeneration, init: InitConfig, seed: int) -> None:
    """Start the units' embeddings from the phones that they stand for."""
    from emova.speech.tokenizer.s2u import S2UTokenizer
    from emova_train.stages.unit_embeddings import carried_over, unit_embeddings

    tokenizer = S2UTokenizer.from_pretrained(init.speech_tokenizer)
    wanted = model.config.speech_codebook_size
    if tokenizer.codebook_size != wanted:
        raise InputError(f"{init.speech_tokenizer}: its codebook has {tokenizer.codebook_size} units, not {wanted}")
    table = model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
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
    if not isinstance(model.model.language_model, LlamaModel):
        if wanted == "always":
            raise InputError("liger=always: its kernels are put into a LLaMA here, and this is none; give auto")
        return False
    # The loss stays ours: it weighs each position.
    apply_liger_kernel_to_llama(cross_entropy=False, fused_linear_cross_entropy=False, model=model.model.language_model)
    return True
