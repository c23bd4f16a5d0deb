"""Train the unit-to-speech detokenizer: ``emova train u2s nano key=value ...``.

VITS (Kim et al. 2021) without alignment search, since a unit is a fixed stretch of time. In each batch some rows are
decoded from the posterior, as in VITS, and the others from the prior's mean through the inverse flow, as inference
does it (the two directions of NaturalSpeech, Tan et al. 2022); the same losses are taken of both, so the path that
will be used is trained from the first step. The style vector comes from another utterance of the same style.

Shapes: B batch, U units with context, W units of the window, T samples, F frames, Z latent channels.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import Tensor, nn

from emova.checkpoint.loading import find_part
from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.speech.detokenizer.source import frame_phases
from emova.speech.detokenizer.u2s import U2SDetokenizer
from emova.speech.detokenizer.vits import PosteriorEncoder
from emova.speech.tokenizer.units import name_units, units_of
from emova_train.core.loop import FitResult, fit
from emova_train.core.optimizer import decay_groups
from emova_train.core.program import add_config, run_module, run_training
from emova_train.core.protocols import ParameterGroup, StreamedSet
from emova_train.distributed import world as parallel
from emova_train.u2s.cache import SpeechStore, kinds_of_units, prepare
from emova_train.u2s.calibration import calibrate_contour, calibrate_loudness, find_silence, write_samples
from emova_train.u2s.config import U2SRecipe
from emova_train.u2s.data import Windows, collate
from emova_train.u2s.discriminators import Discriminators, adversarial_loss
from emova_train.u2s.losses import SpectralLoss, kl_term, pitch_terms
from emova_train.u2s.stream import streamed


class U2STraining(nn.Module):
    """The detokenizer with what only training needs: posterior encoder, discriminators, losses."""

    unused_parameters = True  # the discriminators before their turn
    step: Tensor

    def __init__(self, recipe: U2SRecipe, detokenizer: U2SDetokenizer | None = None) -> None:
        super().__init__()
        self.weights = recipe.losses
        self.context = (recipe.data.context_left, recipe.data.context_right)
        vits = recipe.model.vits
        self.detokenizer = detokenizer if detokenizer is not None else U2SDetokenizer(recipe.model)
        self.posterior = PosteriorEncoder(recipe.posterior, vits, recipe.model.style.style_size)
        self.discriminators = Discriminators(recipe.discriminators)
        self.spectral = SpectralLoss(vits.sample_rate, recipe.losses.sizes, recipe.losses.mels)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(
        self, units: Tensor, unit_mask: Tensor, audio: Tensor, f0: Tensor, f0_level: Tensor, voiced: Tensor,
        reference: Tensor, reference_lengths: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The losses of one batch of ``emova_train.u2s.data.Windows``: generator's and discriminators' in one sum."""
        weights, vits = self.weights, self.detokenizer.vits
        step = int(self.step)
        if self.training:
            self.step += 1
        adversarial = step >= weights.adversarial_start
        style_BS = self.detokenizer.style_encoder(reference, reference_lengths)

        left, right = self.context
        keep = (left, units.shape[1] - right)
        mask_B1F = unit_mask[..., keep[0] : keep[1]].repeat_interleave(vits.config.frames_per_unit, dim=-1)
        prior = vits.prior(units, style_BS, unit_mask, keep)
        mean_BZF, log_scale_BZF = self.posterior(audio, style_BS, mask_B1F)
        z_BZF = mean_BZF + log_scale_BZF.exp() * torch.randn_like(mean_BZF)
        terms = {
            "kl": kl_term(
                vits.flow(z_BZF, style_BS, mask_B1F), log_scale_BZF, prior.mean_BZF, prior.log_scale_BZF, mask_B1F
            )
        }
        loss = weights.kl * terms["kl"]
        if prior.log_f0_BF is not None:
            assert prior.voicing_BF is not None and prior.level_B is not None
            terms["f0"], terms["voicing"], terms["f0_level"] = pitch_terms(
                prior.log_f0_BF, prior.voicing_BF, prior.level_B, f0, voiced, f0_level, mask_B1F.squeeze(1)
            )
            loss = loss + weights.f0 * (terms["f0"] + terms["f0_level"]) + weights.voicing * terms["voicing"]

        # The first rows go the way of inference. Batches are shuffled, so which rows that are does not matter.
        share = weights.prior_path if adversarial else weights.prior_path_early
        rows = round(share * len(units)) if self.training else len(units)
        if rows:
            prior_rows = prior.mean_BZF[:rows]
            drawn = vits.flow.inverse(prior_rows, style_BS[:rows], mask_B1F[:rows])
            z_BZF = torch.cat([drawn, z_BZF[rows:]])
        fake_BT, real_BT = self._sound(z_BZF, style_BS, f0, voiced, mask_B1F, audio)
        terms["mel"], terms["magnitude"] = self.spectral(fake_BT, real_BT)
        loss = loss + weights.mel * terms["mel"] + weights.magnitude * terms["magnitude"]

        if adversarial and self.training:
            real_BT, fake_BT = real_BT[: weights.adversarial_rows], fake_BT[: weights.adversarial_rows]
            judged, of_judges = adversarial_loss(self.discriminators, fake_BT, real_BT, weights, step)
            loss, terms = loss + judged, terms | of_judges
        return {"loss": loss, **terms, "samples": torch.tensor(float(len(units)))}

    def _sound(
        self, z_BZF: Tensor, style_BS: Tensor, f0_BF: Tensor, voiced_BF: Tensor, mask_B1F: Tensor, audio_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Decoded and real samples of the middle of the window."""
        vits, weights = self.detokenizer.vits, self.weights
        config = vits.config
        per, size = config.frames_per_unit, self.detokenizer.samples_per_unit
        window = mask_B1F.shape[-1] // per
        before, after = weights.wave_context
        spare = window - weights.wave_units - before - after
        assert spare >= 0, "wave_units and wave_context don't fit into the window"
        first = spare  # as late as can be: early frames saw less of their past
        frames = slice(first * per, (window - 0) * per)
        excitation = None
        if vits.pitch is not None:
            f0_BF, voiced_BF = f0_BF[:, frames], voiced_BF[:, frames]
            start_B = torch.rand(len(f0_BF), device=f0_BF.device)
            phase_BF = frame_phases(f0_BF, voiced_BF, start_B, config.sample_rate, config.hop_length)
            noise_BT = torch.randn(len(f0_BF), f0_BF.shape[1] * config.hop_length, device=f0_BF.device)
            excitation = vits.excite(f0_BF, voiced_BF, phase_BF, noise_BT)
        samples_BT = vits.head(z_BZF[..., frames], style_BS, excitation, mask_B1F[..., frames])
        begin, count = before * size, weights.wave_units * size
        return samples_BT[:, begin : begin + count], audio_BT[:, first * size + begin : first * size + begin + count]


def parameter_groups(recipe: U2SRecipe, training: U2STraining) -> list[ParameterGroup]:
    """Generator and discriminators, each clipped by itself."""
    run = recipe.run
    generator = nn.ModuleList([training.detokenizer, training.posterior])
    rate = run.learning_rate
    return [
        *decay_groups(generator, run.weight_decay, lr=rate, name="generator", max_grad_norm=run.max_grad_norm),
        *decay_groups(
            training.discriminators, run.weight_decay, lr=rate * recipe.discriminator_rate, name="discriminators",
            max_grad_norm=run.max_grad_norm,
        ),
    ]  # fmt: skip


def train(recipe: U2SRecipe) -> FitResult:
    """Run the training; the detokenizer is exported to ``run.output_dir``/export at each validation and at the end.

    Raises:
        InputError: shards or the tokenizer are missing, or sizes don't fit each other.
    """
    if not recipe.data.train or not recipe.data.validation:
        raise InputError("data.train, data.validation: name shards; see the shipped config u2s/nano")
    if recipe.run.parallel.zero_stage:
        raise InputError(
            f"run.parallel.strategy={recipe.run.parallel.strategy}: a voice and what judges it are clipped each by "
            "itself, and DeepSpeed clips all by one norm; give ddp, or fsdp to split the weights"
        )
    world = parallel.start(recipe.run.parallel)
    run = parallel.resolved(recipe.run, world)
    output = Path(run.output_dir)
    if world.main:
        output.mkdir(parents=True, exist_ok=True)
        save_config(recipe, output / "config.yaml")
    prepare(recipe.data, rank=world.rank, of=world.size)
    with world.patience(run.parallel):
        world.barrier()
    kinds = kinds_of_units(recipe.data)
    held_out = SpeechStore(recipe.data.validation, recipe.data.cache, *kinds)
    train_set: StreamedSet | Windows
    if recipe.data.stream.enabled:
        # What a voice is set by after training (its loudness, its contour) is then measured on the held-out speech.
        store, train_set = held_out, streamed(recipe.data, run.batch_size)
        said = f"{len(train_set)} utterances, streamed"
    else:
        store = SpeechStore(recipe.data.train, recipe.data.cache, *kinds)
        train_set = Windows(store, recipe.data)
        said = f"{len(store)} utterances, {store.hours:.1f} h"
    if world.main:
        print(f"{said}; {len(held_out)} held out", file=sys.stderr)
    torch.manual_seed(recipe.run.seed)
    detokenizer = None
    if recipe.initial:
        detokenizer = U2SDetokenizer.from_pretrained(find_part(recipe.initial, "speech_detokenizer"))
        if detokenizer.config.vits != recipe.model.vits or detokenizer.config.style != recipe.model.style:
            raise InputError(f"{recipe.initial}: its sizes differ from the config's model")
    elif recipe.keep_styles:
        raise InputError("keep_styles: only with initial, an exported detokenizer whose styles are worth keeping")
    training = U2STraining(recipe, detokenizer)
    training.detokenizer.style_encoder.requires_grad_(not recipe.keep_styles)
    find_silence(training.detokenizer, store)

    def validate(module: nn.Module, step: int) -> dict[str, float]:
        gain = calibrate_contour(training.detokenizer, store)
        training.detokenizer.save_pretrained(output / "export")
        measured = write_samples(training.detokenizer, held_out, recipe.samples, output / "samples")
        if training.detokenizer.vits.pitch is not None:
            training.detokenizer.vits.pitch.contour_gain.zero_()  # training goes on without it
        return {"contour_gain": gain, **measured}

    result = fit(
        training, train_set, collate, run,
        eval_set=Windows(held_out, recipe.data, limit=recipe.data.validation_windows, noisy=False),
        parameter_groups=lambda _: parameter_groups(recipe, training), on_validate=validate,
    )  # fmt: skip
    if world.main:
        if result.weights is not None:  # no process holds the whole voice: read what was gathered for the checkpoint
            training = U2STraining(recipe, U2SDetokenizer(training.detokenizer.config))
            load_model(training, str(result.weights))
        training.eval()
        calibrate_contour(training.detokenizer, store)
        calibrate_loudness(training.detokenizer, store)
        training.detokenizer.save_pretrained(output / "export")
        name_units(output / "export", units_of(find_part(recipe.data.tokenizer, "speech_tokenizer")))
    world.barrier()
    return result


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train u2s``."""
    add_config(parser, "nano")
    parser.add_argument("--prepare", action="store_true", help="fill the cache and end")
    parser.add_argument("--without-units", action="store_true", help="with --prepare: before a tokenizer exists")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    recipe = load_config(U2SRecipe, arguments.config, arguments.overrides, kind="u2s")
    if arguments.prepare:
        prepare(recipe.data, units=not arguments.without_units)
        return 0
    return run_training(train, recipe, recipe.run.parallel)


def main() -> int:
    return run_module(register, "emova_train.u2s.program", "Train the unit-to-speech detokenizer.")


if __name__ == "__main__":
    sys.exit(main())
