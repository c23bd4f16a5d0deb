"""Train the flow-matching decoder: ``emova train flow nano key=value ...``.

GLM-4-Voice's (Zeng et al. 2024, §3.2), after CosyVoice (Du et al. 2024): the units' encoder and the flow learn together
the straight way from noise to mel frames (optimal-transport path, Lipman et al. 2023, §4.1), with frames at the
beginning given and the condition left out in some rows. First whole stretches of speech, then (``cut_at_blocks``)
utterances that end at whole blocks and see what a chunk of a stream sees. The vocoder learns beside it, from real
frames. The model is ``FlowHiFTDetokenizer``, the class that reads the release too.

Shapes: B rows, U units, T samples, M mel bins, F frames, S styles, N harmonics.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.checkpoint.loading import find_part
from emova.checkpoint.registry import load_tokenizer
from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer
from emova.speech.detokenizer.flow_hift.sound import MelHead
from emova.speech.features import LogMel
from emova.speech.tokenizer.units import name_units, units_of
from emova_train.core.config import DDP
from emova_train.core.loop import FitResult, fit
from emova_train.core.optimizer import decay_groups
from emova_train.core.program import add_config, run_module, run_training
from emova_train.core.protocols import ParameterGroup
from emova_train.distributed import world as parallel
from emova_train.flow.config import FLOW, VOCODER, FlowRecipe
from emova_train.flow.data import Rows, Utterances
from emova_train.u2s.cache import HOP, SAMPLE_RATE, SpeechStore, kinds_of_units, prepare, ticks_of
from emova_train.u2s.calibration import say_again
from emova_train.u2s.discriminators import Discriminators, adversarial_loss
from emova_train.u2s.losses import SpectralLoss

_MIDDLE_HZ = 160.0
_LEAST_VOICED = 20
"""Frames of 10 ms of a row whose pitch is asked for."""


class FlowTraining(nn.Module):
    """The decoder with what only training needs: discriminators, losses."""

    unused_parameters = True  # the discriminators before their turn, the condition where it is left out
    step: Tensor

    def __init__(self, recipe: FlowRecipe, detokenizer: FlowHiFTDetokenizer | None = None) -> None:
        super().__init__()
        self.recipe, self.weights = recipe, recipe.losses
        self.detokenizer = detokenizer if detokenizer is not None else FlowHiFTDetokenizer(recipe.model)
        self.mel = LogMel(recipe.model.mel)
        self.pitch_of_style = nn.Linear(recipe.model.style.style_size, 2)
        self.discriminators = Discriminators(recipe.discriminators)
        self.spectral = SpectralLoss(recipe.model.sample_rate, recipe.losses.sizes, recipe.losses.mels)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(
        self, units: Tensor, audio: Tensor, f0: Tensor, given: Tensor, reference: Tensor, reference_lengths: Tensor
    ) -> dict[str, Tensor]:
        """The losses of one batch of ``Rows``."""
        assert self.detokenizer.style_encoder is not None
        style_BS = self.detokenizer.style_encoder(reference, reference_lengths)
        margin, hop = self.recipe.model.mel.n_fft // 2, self.recipe.model.hop
        with torch.no_grad():
            mel_BMF = self.mel.windows(audio)[..., : (audio.shape[1] - 2 * margin) // hop]
        audio = audio[:, margin:-margin]
        terms: dict[str, Tensor] = {}
        loss = mel_BMF.new_zeros(())
        if FLOW in self.recipe.parts:
            terms |= self._flow(units, style_BS, mel_BMF, given)
            terms["style_pitch"] = self._style_pitch(style_BS, f0)
            loss = loss + terms["flow"] + self.weights.prior * terms["prior"]
            loss = loss + self.weights.style_pitch * terms["style_pitch"]
        if VOCODER in self.recipe.parts:
            vocoder, found = self._vocoder(style_BS, mel_BMF, audio, f0)
            loss, terms = loss + vocoder, terms | found
        if self.training:
            self.step += 1
        return {"loss": loss, **terms, "samples": torch.tensor(float(len(units)))}

    def _flow(self, units_BU: Tensor, style_BS: Tensor, mel_BMF: Tensor, given_B: Tensor) -> dict[str, Tensor]:
        flow, weights, device = self.detokenizer.flow, self.weights, mel_BMF.device
        rows, frames = len(mel_BMF), mel_BMF.shape[2]
        mean_BMF, speaker_BM = flow.condition(units_BU, style_BS, frames)
        prior = functional.mse_loss(mean_BMF.float(), mel_BMF)
        if self.recipe.cut_at_blocks:
            known_B = given_B * (frames / units_BU.shape[1])
        else:
            known_B = torch.rand(rows, device=device) * weights.prompt_share * frames
            known_B = known_B * (torch.rand(rows, device=device) < weights.prompted)
        known_BF = torch.arange(frames, device=device)[None] < known_B[:, None].long()
        given_BMF = mel_BMF * known_BF[:, None]
        keep_B11 = (torch.rand(rows, 1, 1, device=device) >= weights.dropped).float()
        time_B = 1 - torch.cos(torch.rand(rows, device=device) * 0.5 * math.pi)
        noise_BMF = torch.randn_like(mel_BMF)
        at_BMF = torch.lerp(noise_BMF, mel_BMF, time_B[:, None, None])
        velocity_BMF = self.detokenizer.flow.estimator(
            at_BMF, mean_BMF * keep_B11, speaker_BM * keep_B11[..., 0], given_BMF * keep_B11, time_B
        )
        return {"flow": functional.mse_loss(velocity_BMF.float(), mel_BMF - noise_BMF), "prior": prior}

    def _style_pitch(self, style_BS: Tensor, f0_BF: Tensor) -> Tensor:
        """L1 of the middle and the spread of log-F0 (octaves around ``_MIDDLE_HZ``) as the condition tells them."""
        voiced_BF = f0_BF > 0
        octaves_BF = torch.where(voiced_BF, f0_BF.clamp(min=1) / _MIDDLE_HZ, 1.0).log2()
        count_B = voiced_BF.sum(dim=1)
        middle_B = octaves_BF.sum(dim=1) / count_B.clamp(min=1)
        spread_B = (((octaves_BF - middle_B[:, None]) ** 2 * voiced_BF).sum(dim=1) / count_B.clamp(min=1)).sqrt()
        told_B2 = self.pitch_of_style(functional.normalize(style_BS, dim=1)).float()  # as the flow is given it
        gap_B2 = (told_B2 - torch.stack([middle_B, spread_B], dim=1)).abs()
        heard_B1 = (count_B >= _LEAST_VOICED).float()[:, None]
        return (gap_B2 * heard_B1).sum() / (2 * heard_B1.sum()).clamp(min=1)

    def _vocoder(
        self, style_BS: Tensor, mel_BMF: Tensor, audio_BT: Tensor, f0_BF: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        weights, hop, edge = self.weights, self.recipe.model.hop, self.weights.edge
        step, vocoder = int(self.step), self.detokenizer.vocoder
        rows, count = min(weights.sound_rows, len(mel_BMF)), min(weights.sound_frames, mel_BMF.shape[2])
        first = int(torch.randint(0, mel_BMF.shape[2] - count + 1, ())) if self.training else 0
        mel_BMF = mel_BMF[:rows, :, first : first + count]
        heard_BMF = mel_BMF + weights.mel_noise * torch.randn_like(mel_BMF) if self.training else mel_BMF
        terms: dict[str, Tensor] = {}
        loss = mel_BMF.new_zeros(())
        if not isinstance(vocoder, MelHead):  # it has a source
            # F0 is measured each 10 ms; a frame's is the nearest.
            places = (torch.arange(first, first + count, device=mel_BMF.device) * hop // HOP).clamp(
                max=f0_BF.shape[1] - 1
            )
            f0_BF = f0_BF[:rows, places]
            terms["pitch"] = (vocoder.pitch(heard_BMF).float() - f0_BF).abs().mean() / 100
            loss = loss + weights.pitch * terms["pitch"]
            with torch.autocast(mel_BMF.device.type, enabled=False):
                turns_B = torch.rand(rows, dtype=torch.float64, device=mel_BMF.device)
                phases_BN = (torch.rand(rows, vocoder.draws, device=mel_BMF.device) * 2 - 1) * math.pi
                noise_BNT = torch.randn(rows, vocoder.draws, count * hop, device=mel_BMF.device)
                source, _ = vocoder.source(f0_BF, turns_B, phases_BN, noise_BNT)
            fake_BT = vocoder(heard_BMF, source)
        else:
            fake_BT = vocoder(heard_BMF, style_BS[:rows])
        # A frame's window is centred on its first sample, so the sound of `count` frames ends where the next would lie.
        real_BT = audio_BT[:rows, first * hop : (first + count) * hop]
        inside = slice(edge * hop, (count - edge) * hop) if count > 2 * edge else slice(None)
        fake_BT, real_BT = fake_BT.float()[:, inside], real_BT[:, inside]
        terms["mel"], terms["magnitude"] = self.spectral(fake_BT, real_BT)
        loss = loss + weights.mel * terms["mel"] + weights.magnitude * terms["magnitude"]
        if step >= weights.adversarial_start and self.training:
            judged, of_judges = adversarial_loss(self.discriminators, fake_BT, real_BT, weights, step)
            loss, terms = loss + judged, terms | of_judges
        return loss, terms


def parameter_groups(recipe: FlowRecipe, training: FlowTraining) -> list[ParameterGroup]:
    """Decoder, vocoder and discriminators, each clipped by itself."""
    run, voice = recipe.run, training.detokenizer
    flow = nn.ModuleList([voice.flow, *([voice.style_encoder] if voice.style_encoder is not None else [])])
    flow.append(training.pitch_of_style)
    parts: list[tuple[str, nn.Module, float]] = [
        (FLOW, flow, 1.0), (VOCODER, voice.vocoder, 1.0),
        ("discriminators", training.discriminators, recipe.discriminator_rate),
    ]  # fmt: skip
    return [
        group
        for name, module, share in parts
        for group in decay_groups(
            module, run.weight_decay, lr=run.learning_rate * share, name=name, max_grad_norm=run.max_grad_norm
        )
    ]


@torch.no_grad()
def write_samples(voice: FlowHiFTDetokenizer, store: SpeechStore, count: int, folder: Path) -> dict[str, float]:
    """Say held-out utterances in their own style from neutral units; how far their mel frames are from the real ones.

    ``mel_distance`` is a mean absolute difference in the decoder's normalised frames; speech of other phones or another
    length of breath scores about 1.
    """
    mel, gaps = LogMel(voice.config.mel), []
    for said in say_again(voice, store, count, folder):
        samples_T, real_T = said.samples, torch.from_numpy(store.samples(said.index))
        size = min(len(samples_T), len(real_T))
        gaps.append((mel(samples_T[None, :size]) - mel(real_T[None, :size])).abs().mean())
    return {"mel_distance": float(torch.stack(gaps).mean())} if gaps else {}


def build(recipe: FlowRecipe) -> FlowTraining:
    """A fresh decoder, or the one to go on from; what is not learnt is frozen. Raises: InputError: they differ."""
    model = recipe.model
    if not model.hears_styles or model.sample_rate != SAMPLE_RATE or model.hop % HOP:
        raise InputError(
            f"model: a decoder is trained with hears_styles=true, at {SAMPLE_RATE} Hz, with a hop of {HOP} samples or "
            "a multiple; see the shipped config flow/nano"
        )
    torch.manual_seed(recipe.run.seed)
    voice = None
    if recipe.initial:
        voice = FlowHiFTDetokenizer.from_pretrained(find_part(recipe.initial, "speech_detokenizer"))
        fresh = FlowHiFTDetokenizer(model)
        shapes = [{name: value.shape for name, value in each.state_dict().items()} for each in (voice, fresh)]
        if shapes[0] != shapes[1] or voice.config.mel != model.mel:
            raise InputError(f"{recipe.initial}: its sizes differ from the config's model")
        fresh.load_state_dict(voice.state_dict())
        voice = fresh
    training = FlowTraining(recipe, voice)
    training.detokenizer.flow.requires_grad_(FLOW in recipe.parts)
    training.detokenizer.vocoder.requires_grad_(VOCODER in recipe.parts)
    assert training.detokenizer.style_encoder is not None
    # The vocoder alone must not move the styles that the flow knows.
    training.detokenizer.style_encoder.requires_grad_(FLOW in recipe.parts)
    training.pitch_of_style.requires_grad_(FLOW in recipe.parts)
    training.discriminators.requires_grad_(VOCODER in recipe.parts)
    return training


def train(recipe: FlowRecipe) -> FitResult:
    """Run the training; the decoder is exported to ``run.output_dir``/export at each validation and at the end.

    Raises:
        InputError: shards or the tokenizer are missing, or sizes don't fit each other.
    """
    if not recipe.data.train or not recipe.data.validation:
        raise InputError("data.train, data.validation: name shards; see the shipped config flow/nano")
    if recipe.data.stream.enabled:
        raise InputError("data.stream.enabled: this decoder learns from the cache alone; give false")
    if recipe.run.parallel.strategy != DDP:
        raise InputError(
            "run.parallel.strategy: a voice and what judges it are clipped each by itself, which only ddp can; give ddp"
        )
    source = find_part(recipe.data.tokenizer, "speech_tokenizer")
    tokenizer = load_tokenizer(source)
    if (tokenizer.unit_rate, tokenizer.codebook_size) != (recipe.model.unit_rate, recipe.model.units.codes):
        raise InputError(
            f"data.tokenizer: makes {tokenizer.unit_rate:g} of {tokenizer.codebook_size} units a second, the model "
            f"speaks {recipe.model.unit_rate:g} of {recipe.model.units.codes}; give model.unit_rate, model.units.codes"
        )
    ticks = ticks_of(tokenizer.unit_rate)
    world = parallel.start(recipe.run.parallel)
    run = parallel.resolved(recipe.run, world)
    output = Path(run.output_dir)
    if world.main:
        output.mkdir(parents=True, exist_ok=True)
        save_config(recipe, output / "config.yaml")
    training = build(recipe)
    voice = training.detokenizer
    prepare(recipe.data, rank=world.rank, of=world.size)
    with world.patience(run.parallel):
        world.barrier()
    kinds = kinds_of_units(recipe.data)
    store, held_out = (
        SpeechStore(shards, recipe.data.cache, *kinds, ticks=ticks)
        for shards in (recipe.data.train, recipe.data.validation)
    )
    if world.main:
        print(f"{len(store)} utterances, {store.hours:.1f} h; {len(held_out)} held out", file=sys.stderr)
    rows = Rows.of(recipe, ticks)

    def validate(module: nn.Module, step: int) -> dict[str, float]:
        voice.save_pretrained(output / "export")
        return write_samples(voice, held_out, recipe.samples, output / "samples")

    result = fit(
        training, Utterances(store, recipe.data), rows, run,
        eval_set=Utterances(held_out, recipe.data, recipe.data.validation_windows),
        parameter_groups=lambda _: parameter_groups(recipe, training), on_validate=validate,
    )  # fmt: skip
    if world.main:
        voice.save_pretrained(output / "export")
        name_units(output / "export", units_of(source))
    world.barrier()
    return result


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train flow``."""
    add_config(parser, "nano")
    parser.add_argument("--prepare", action="store_true", help="fill the cache and end")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    recipe = load_config(FlowRecipe, arguments.config, arguments.overrides, kind="flow")
    if arguments.prepare:
        prepare(recipe.data)
        return 0
    return run_training(train, recipe, recipe.run.parallel)


def main() -> int:
    return run_module(register, "emova_train.flow.program", "Train the flow-matching decoder.")


if __name__ == "__main__":
    sys.exit(main())
