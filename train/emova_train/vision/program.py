"""Train nano's vision tower and projector from nothing: ``emova train vision nano``.

A small decoder reads the projector's visual tokens and writes the picture's dense caption and the answers to questions
about it, as captioners are pre-trained (CapPa, Tschannen et al. 2023); some captions are written all at once from the
picture alone, which leaves the work to the tower. Beside it the pooled visual tokens name the caption's tokens in any
order (SuperClass, Huang et al. 2024): without that direct demand the decoder long writes likely sentences and looks
at nothing. And each visual token and each patch names what the recipe drew there (``emova_train.vision.regions``),
which teaches to look from far fewer pictures. Afterwards the decoder is thrown away: the tower and the
whole projector start EmovaForConditionalGeneration (``emova.model.building.load_vision``).

Shape letters: B pictures, V visual tokens, T text positions, D width, H heads, K head width.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.core.tokens import TokenIds
from emova.core.weights import load_state, read_folder, read_state, save_folder
from emova.model.building import ModelConfig, VisionExport, VisionParts, projector_config
from emova.vision.internvit import InternViT
from emova_train.core.config import RunConfig
from emova_train.core.loop import FitResult, fit
from emova_train.core.optimizer import decay_groups
from emova_train.core.precision import AUTO, autocast
from emova_train.core.program import add_config, run_module
from emova_train.core.protocols import ParameterGroup
from emova_train.core.renamed import VISION_KEYS, VISION_WEIGHTS
from emova_train.data.recipe import read_pictures
from emova_train.vision.data import IGNORED, CaptionCollate, CaptionData, PixelCache, TextIds
from emova_train.vision.regions import ClassNames, ClassWords, RegionClasses, RegionHead
from emova_train.vision.trunk_init import load_trunk, trunk_of


@dataclass(frozen=True)
class DecoderShape:
    """The throw-away text decoder."""

    width: int = 192
    layers: int = 2
    heads: int = 3
    positions: int = 192
    """Longest text."""


@dataclass(frozen=True)
class VisionTrainConfig:
    """Everything a run needs; paths are relative to the working directory."""

    RENAMED: ClassVar[Mapping[str, str]] = VISION_KEYS

    model: str = "model/nano"
    tokenizer: str = "runs/tokenizer-nano"
    data: str = "data/nano"
    cache: str = "data/nano/cache/vision"
    start_from: str = ""
    """An earlier export, or checkpoint of a run, to go on from; the latter's decoder goes on too."""
    words: str = ""
    """A checkpoint whose language model is to read the pictures: visual tokens learn to point where its words do."""
    trunk: str = ""
    """Published weights of the tower's trunk (``emova_train.vision.trunk_init``); none: it starts from nothing."""
    trunk_rate: float = 0.3
    """The trunk's learning rate over that of the rest."""
    trunk_frozen: int = 2
    """The trunk's stages from the picture on that stay as they are; they are the dearest to train."""
    decoder: DecoderShape = field(default_factory=DecoderShape)
    parallel_ratio: float = 0.25
    """Share of captions written all at once."""
    answer_weight: float = 1.0
    """Of the answers' loss over the caption's."""
    bag_weight: float = 1.0
    """Of the loss that pooled visual tokens have in naming the caption's tokens."""
    region_weight: float = 1.0
    """Of the loss that visual tokens and patches have in naming what is drawn there; 0 needs no regions."""
    position_scale: float = 0.5
    """Amplitude of the waves that the tower's positions start as; noise of 0.02 is found too late."""
    max_validation: int = 400
    """Held-out pictures looked at in a validation."""
    run: RunConfig = field(default_factory=lambda: RunConfig(output_dir="runs/vision-nano", batch_size=32))


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention to the picture, feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_self, self.norm_cross, self.norm_ffn = (nn.LayerNorm(width) for _ in range(3))
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def _attend(self, q_BTD: Tensor, k_BSD: Tensor, v_BSD: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q_BTD, k_BSD, v_BSD))
        # Plain products: twice as fast on a CPU in bfloat16 as the fused kernel, and there is little to hold.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(~mask, -1e4)
        return (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)

    def forward(self, text_BTD: Tensor, memory_BVD: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_self(text_BTD)).chunk(3, dim=-1)
        text_BTD = text_BTD + self.out(self._attend(q, k, v, mask))
        k, v = self.key_value(memory_BVD).chunk(2, dim=-1)
        text_BTD = text_BTD + self.cross_out(self._attend(self.query(self.norm_cross(text_BTD)), k, v, None))
        return text_BTD + self.ffn(self.norm_ffn(text_BTD))


def position_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of rows and columns, [side * side, width]."""
    assert width % 4 == 0
    frequencies = torch.pi * torch.logspace(0, 1, width // 4, base=side / 2) / side
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    rows = waves[:, None, :].expand(-1, side, -1)
    columns = waves[None, :, :].expand(side, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)


def _rename_weights(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Give weights that a checkpoint of an earlier version has their names of today."""
    for name in list(state):
        for old, new in VISION_WEIGHTS.items():
            if name.startswith(f"{prefix}{old}."):
                state[f"{prefix}{new}.{name[len(prefix) + len(old) + 1 :]}"] = state.pop(name)


class VisionCaptioner(nn.Module):
    """Tower, projector and decoder; ``parts`` is what outlives the training.

    Args:
        export: shapes of tower and projector.
        decoder: shape of the decoder.
        ids: its vocabulary.
        mean, std: of the pixels, each channel, of 0..1 values.
        rarity: weight of each token in the bag loss, see ``CaptionData.rarity``.
        answer_weight, bag_weight: of the answers' and the bag's loss.
        position_scale: amplitude of the tower's first positions.
        region_classes, region_weight: of the regions, see ``emova_train.vision.regions``, and of their loss.
        words: a language model's embeddings of the regions' tokens, for ``ClassWords``.
    """

    mean: Tensor
    std: Tensor
    rarity: Tensor

    def __init__(
        self,
        export: VisionExport,
        decoder: DecoderShape,
        ids: TextIds,
        mean: Sequence[float],
        std: Sequence[float],
        rarity: Tensor,
        answer_weight: float = 1.0,
        bag_weight: float = 1.0,
        position_scale: float = 0.5,
        region_classes: int = 1,
        region_weight: float = 1.0,
        words: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.export = export
        self.answer_weight = answer_weight
        self.bag_weight = bag_weight
        self.region_weight = region_weight
        self.parts = VisionParts(export)
        self.memory = nn.Sequential(
            nn.Linear(export.projector.output_width, decoder.width), nn.LayerNorm(decoder.width)
        )
        self.embedding = nn.Embedding(ids.size, decoder.width)
        self.positions = nn.Embedding(decoder.positions, decoder.width)
        self.layers = nn.ModuleList(DecoderLayer(decoder.width, decoder.heads) for _ in range(decoder.layers))
        self.norm = nn.LayerNorm(decoder.width)
        self.bag = nn.Linear(2 * decoder.width, ids.size)
        own_names = ClassNames(export.projector.output_width, region_classes) if words is None else ClassWords(words)
        self.token_regions = RegionHead(own_names)
        self.patch_regions = RegionHead(ClassNames(export.projector.input_width, region_classes))
        self.register_load_state_dict_pre_hook(_rename_weights)
        self.register_buffer("rarity", rarity, persistent=False)
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std)[:, None, None], persistent=False)
        for module in self.modules():
            # timm's 0.02 suits wide towers; at this width it starts far too quietly.
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.05)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        tower = self.parts.vision_tower
        if isinstance(tower, InternViT) and tower.pos_embed is not None:
            with torch.no_grad():
                waves = position_scale * position_waves(tower.side, tower.width)
                tower.pos_embed[0, -waves.shape[0] :] = waves

    @torch.no_grad()
    def calibrate(self, pixels: Tensor) -> None:
        """Scale the patch embedding so that these pictures' patches have mean 0 and deviation 1 in each channel.

        Neighbouring pixels are alike, so an unscaled embedding drowns the positions, and attention is blind to place.

        Args:
            pixels: [B, 3, S, S], 0 to 255.
        """
        tower = self.parts.vision_tower
        if not isinstance(tower, InternViT):
            return
        patches_BPD = tower.patch_embed((pixels - self.mean) / self.std)
        mean_D, deviation_D = patches_BPD.mean(dim=(0, 1)), patches_BPD.std(dim=(0, 1)).clamp(min=1e-3)
        last = tower.patch_embed.proj
        last = last[-1] if isinstance(last, nn.Sequential) else last
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        last.weight.div_(deviation_D[:, None, None, None])
        last.bias.copy_((last.bias - mean_D) / deviation_D)

    def see(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [B, 3, S, S], 0 to 255, to the tower's patches and the projector's visual tokens [B, V, width]."""
        patches = self.parts.vision_tower((pixels - self.mean) / self.std)
        return patches, self.parts.projector(patches)

    def look(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, S, S], 0 to 255, to what the decoder reads, [B, V, D]."""
        return self.memory(self.see(pixels)[1])

    def hidden(
        self, memory_BVD: Tensor, inputs: Tensor, segments: Tensor, positions: Tensor, parallel: Tensor
    ) -> Tensor:
        """The decoder's states [B, T, D]; see ``CaptionCollate`` for the arguments."""
        length = inputs.shape[1]
        causal_TT = torch.ones(length, length, dtype=torch.bool, device=inputs.device).tril()
        same_BTT = segments[:, :, None] == segments[:, None, :]
        mask = (same_BTT & (causal_TT | parallel[:, :, None]))[:, None]
        text_BTD = self.embedding(inputs) + self.positions(positions)
        for layer in self.layers:
            text_BTD = layer(text_BTD, memory_BVD, mask)
        return self.norm(text_BTD)

    def bag_loss(self, memory_BVD: Tensor, captions_BT: Tensor) -> Tensor:
        """Cross-entropy of the pooled picture's guess against the set of the caption's tokens, rare ones first."""
        pooled_BD = torch.cat([memory_BVD.mean(dim=1), memory_BVD.amax(dim=1)], dim=-1)
        guess = self.bag(pooled_BD).float().log_softmax(dim=-1)
        wanted = torch.zeros_like(guess).scatter_(1, captions_BT.clamp(min=0), 1.0)
        # Places without a caption token were written to token 0; it is taken back unless it is really there.
        wanted[:, 0] = (captions_BT == 0).any(dim=1).float()
        wanted = wanted * self.rarity
        wanted = wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1e-6)
        return -(wanted * guess).sum(dim=1).mean()

    def forward(
        self,
        pixels: Tensor,
        inputs: Tensor,
        targets: Tensor,
        segments: Tensor,
        positions: Tensor,
        answers: Tensor,
        parallel: Tensor,
        regions: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of the captions, word by word and all at once, and of the answers, each a mean over tokens.

        And of the regions: ``regions_right`` is the visual tokens' share, ``patch_regions_right`` the patches'.
        """
        patches, tokens = self.see(pixels)
        memory_BVD = self.memory(tokens)
        named = self.token_regions(tokens, regions[:, : tokens.shape[1]])
        named_patches = self.patch_regions(patches, regions[:, tokens.shape[1] :])
        region_loss = (named.loss + named_patches.loss) / 2
        hidden_BTD = self.hidden(memory_BVD, inputs, segments, positions, parallel)
        bag_loss = self.bag_loss(memory_BVD, torch.where(answers, IGNORED, targets))
        wanted = targets != IGNORED
        logits = functional.linear(hidden_BTD[wanted], self.embedding.weight).float()
        losses = functional.cross_entropy(logits, targets[wanted], reduction="none")
        right = (logits.argmax(-1) == targets[wanted]).float()
        answers, parallel = answers[wanted], parallel[wanted]

        def mean(values: Tensor, where: Tensor) -> Tensor:
            return (values * where).sum() / where.sum().clamp(min=1)

        answer = mean(losses, answers)
        caption = mean(losses, ~answers)
        return {
            "loss": caption
            + self.answer_weight * answer
            + self.bag_weight * bag_loss
            + self.region_weight * region_loss,
            "bag_loss": bag_loss.detach(),
            "region_loss": region_loss.detach(),
            "regions_right": named.right,
            "patch_regions_right": named_patches.right,
            "caption_loss": mean(losses, ~answers & ~parallel).detach(),
            "parallel_loss": mean(losses, parallel).detach(),
            "answer_loss": answer.detach(),
            "answer_tokens_right": mean(right, answers),
            "samples": torch.tensor(float(pixels.shape[0])),
        }


@torch.no_grad()
def right_answers(
    module: VisionCaptioner, data: CaptionData, precision: str = AUTO, batch_size: int = 32
) -> dict[str, float]:
    """Share of answers whose every token is the likeliest: what greedy decoding writes word for word, by kind."""
    collate = CaptionCollate(data.ids)
    right: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(data), batch_size):
        places = range(start, min(start + batch_size, len(data)))
        batch = {name: part.to(module.mean.device) for name, part in collate([data[p] for p in places]).items()}
        with autocast(precision):
            text = {name: batch[name] for name in ("inputs", "segments", "positions", "parallel")}
            hidden_BTD = module.hidden(module.look(batch["pixels"]), **text)
            chosen = functional.linear(hidden_BTD, module.embedding.weight).argmax(-1)
        good = (chosen == batch["targets"]) | (batch["targets"] == IGNORED)
        for row, place in enumerate(places):
            for number, segment in enumerate(data.segments[place], 1):
                own = batch["segments"][row] == number
                name = f"right_{data.pictures[place].kind}" if segment.is_answer else "right_captions"
                right[name].append(bool(good[row][own].all()))
    result = {name: sum(values) / len(values) for name, values in sorted(right.items())}
    answered = [value for name, values in right.items() if name != "right_captions" for value in values]
    return {**result, "right_answers": sum(answered) / max(1, len(answered))}


def groups(trained: nn.Module, config: VisionTrainConfig) -> list[ParameterGroup]:
    """AdamW's groups: a published trunk learns more slowly, its first stages not at all."""
    assert isinstance(trained, VisionCaptioner)
    decay, rate = config.run.weight_decay, config.run.learning_rate
    trunk = trunk_of(trained.parts.vision_tower) if config.trunk else None
    if trunk is None:
        return decay_groups(trained, decay, lr=rate)
    trunk[: 2 + config.trunk_frozen].requires_grad_(False)
    own = {id(parameter) for parameter in trunk.parameters()}
    others = nn.ParameterList(parameter for parameter in trained.parameters() if id(parameter) not in own)
    slow = decay_groups(trunk, decay, lr=rate * config.trunk_rate)
    return [*decay_groups(others, decay, lr=rate), *slow]


def some_pixels(data: CaptionData, count: int = 64) -> Tensor:
    """Pixels [B, 3, S, S] of pictures from all over a set, and so of all kinds."""
    places = torch.linspace(0, len(data) - 1, count).long().tolist()
    return CaptionCollate(data.ids)([data[place] for place in places])["pixels"]


def read_words(checkpoint: Path, classes: RegionClasses) -> Tensor:
    """A checkpoint's embeddings of the regions' tokens, [C - 1, D].

    Raises:
        InputError: it is missing or damaged, or holds no language model of ours.
    """
    name = "model.language_model.embed_tokens.weight"
    state = read_state(checkpoint)
    if name not in state:
        raise InputError(f"{checkpoint}: it holds no language model; words is to be a checkpoint, or a stage's export")
    return state[name][list(classes.tokens)]


def go_on(module: VisionCaptioner, folder: Path) -> None:
    """Start from what an earlier run left: tower and projector from its export, or all that fits from a checkpoint."""
    if (folder / "config.json").is_file():
        load_state(module.parts, read_folder(folder)[1], folder)
        return
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{folder}: neither an export nor a checkpoint of a run; start_from is to be one")
    own, state = module.state_dict(), read_state(folder)
    _rename_weights(module, state, "")
    # Heads over the regions' classes belong to the pictures that they were counted on.
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    lost = [name for name in own if name.startswith("parts.") and name not in fitting]
    if lost:
        raise InputError(f"{folder}: {lost[0]} is missing or has another shape; train with that run's model")
    module.load_state_dict(fitting, strict=False)


def train(config: VisionTrainConfig) -> FitResult:
    """Run the training and write ``export/`` at every validation and at the end.

    Raises:
        InputError: there are no pictures, or the tokenizer is another one.
    """
    model = load_config(ModelConfig, config.model, kind="model")
    tokenizer = AutoTokenizer.from_pretrained(config.tokenizer)
    ids = TextIds(TokenIds.from_tokenizer(tokenizer).pad)
    export = VisionExport(model.vision, projector_config(model.vision, model.projector, model.text.hidden_size))
    red, green, blue = (round(255 * value) for value in model.image.mean)
    grids = (export.projector.output_side, export.projector.input_side)
    sets: dict[str, CaptionData] = {}
    for split in ("train", "test"):
        pictures = read_pictures(Path(config.data), split)
        if not pictures:
            raise InputError(f"{config.data}/pictures: no {split} pictures; run `emova data make nano` first")
        if split == "test":
            pictures = pictures[:: max(1, len(pictures) // config.max_validation)][: config.max_validation]
        if split == "train":
            if config.region_weight and not any(picture.regions for picture in pictures):
                raise InputError(
                    f"{config.data}/pictures: no regions; run `emova data make nano` or give region_weight=0"
                )
            classes = RegionClasses(pictures if config.region_weight else (), tokenizer)
        path = Path(config.cache) / f"{split}.u8"
        pixels = PixelCache(pictures, model.vision.image_size, path, (red, green, blue))
        ratio = config.parallel_ratio if split == "train" else 0.0
        sets[split] = CaptionData(
            pictures, pixels, tokenizer, ids, classes, grids, ratio, split == "train", config.run.seed
        )

    torch.manual_seed(config.run.seed)
    module = VisionCaptioner(
        export,
        config.decoder,
        ids,
        model.image.mean,
        model.image.std,
        sets["train"].rarity(),
        config.answer_weight,
        config.bag_weight,
        config.position_scale,
        len(classes),
        config.region_weight,
        read_words(Path(config.words), classes) if config.words else None,
    )
    if config.start_from:
        go_on(module, Path(config.start_from))
    else:
        if config.trunk:
            load_trunk(module.parts.vision_tower, config.trunk)
        module.calibrate(some_pixels(sets["train"]))
    folder = Path(config.run.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "config.yaml")

    shown = some_pixels(sets["test"])

    def write(trained: VisionCaptioner) -> None:
        with torch.no_grad(), autocast(config.run.precision):
            rms = trained.see(shown.to(trained.mean.device))[1].float().square().mean().sqrt().item()
        save_folder(folder / "export", replace(export, token_rms=rms), trained.parts.state_dict())

    def validate(trained: nn.Module, step: int) -> dict[str, float]:
        assert isinstance(trained, VisionCaptioner)
        write(trained)
        return right_answers(trained, sets["test"], config.run.precision)

    result = fit(
        module,
        sets["train"],
        CaptionCollate(ids),
        config.run,
        eval_set=sets["test"],
        parameter_groups=lambda trained: groups(trained, config),
        on_validate=validate,
    )
    write(module)
    return result


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train vision``."""
    add_config(parser, "nano", "nano")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    result = train(load_config(VisionTrainConfig, arguments.config, arguments.overrides, kind="vision"))
    print({name: round(value, 4) for name, value in result.eval_terms.items()})
    return 0


def main() -> int:
    return run_module(register, "emova_train.vision.program", __doc__.split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())
