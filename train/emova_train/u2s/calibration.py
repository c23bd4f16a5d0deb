"""What is fitted to recordings beside the gradient: spread of the pitch, loudness, the unit of silence; samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from emova.speech.audio import save_wav
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.detokenizer.u2s import U2SDetokenizer
from emova.speech.detokenizer.waveform_heads import ISTFTHead
from emova_train.u2s.cache import SpeechStore


@torch.no_grad()
def calibrate_contour(detokenizer: U2SDetokenizer, store: SpeechStore, count: int = 288, ridge: float = 0.001) -> float:
    """Fit the factor that gives predicted F0 contours the spread of the real ones; return its mean.

    The logarithm of (real spread / predicted spread) is fitted by ridge regression on the style vector.
    """
    pitch = detokenizer.vits.pitch
    if pitch is None:
        return 1.0
    pitch.contour_gain.zero_()
    styles, ratios = [], []
    for index in some_of(store, count):
        units, style = inputs_of(detokenizer, store, index)
        prior = detokenizer.vits.prior(units, style)
        assert prior.log_f0_BF is not None and prior.voicing_BF is not None
        f0 = torch.from_numpy(store.f0(index))
        both = (prior.voicing_BF[0] > 0) & (f0 > 0)
        if int(both.sum()) >= 20:
            ratio = f0[both].log().std() / prior.log_f0_BF[0][both].std().clamp(min=1e-3)
            styles.append(style[0])
            ratios.append(ratio.clamp(0.5, 2.5).log())
    if not ratios:
        return 1.0
    style_NS, ratio_N = torch.stack(styles).double(), torch.stack(ratios).double()
    centred_NS = style_NS - style_NS.mean(dim=0)
    scale = centred_NS.square().sum(dim=1).mean()  # makes the ridge independent of the style's units
    square_SS = centred_NS.T @ centred_NS + ridge * scale * torch.eye(style_NS.shape[1], dtype=torch.float64)
    weights_S = torch.linalg.solve(square_SS, centred_NS.T @ (ratio_N - ratio_N.mean()))
    pitch.contour_gain[:-1] = weights_S
    pitch.contour_gain[-1] = ratio_N.mean() - style_NS.mean(dim=0) @ weights_S
    return float(pitch.gain(torch.stack(styles)).mean())


@torch.no_grad()
def calibrate_loudness(detokenizer: U2SDetokenizer, store: SpeechStore, count: int = 48) -> float:
    """Make the sound as loud as the recordings are (median of utterances), and return the factor.

    The L1 of logarithms aims at medians, which lie below means, so what it trains is a little too quiet. The factor
    goes into the bias of the inverse-STFT head's magnitudes; the HiFi-GAN head is left as it is.
    """
    head = detokenizer.vits.head
    if not isinstance(head, ISTFTHead):
        return 1.0
    ratios = []
    for index in some_of(store, count):
        samples_BT = detokenizer.decode(*inputs_of(detokenizer, store, index))
        real = torch.from_numpy(store.samples(index)).square().mean().sqrt()
        ratios.append(real / samples_BT.square().mean().sqrt().clamp(min=1e-4))
    factor = float(torch.stack(ratios).median().clamp(0.5, 2.0)) if ratios else 1.0
    assert head.leave.bias is not None
    head.leave.bias[: head.bins] += float(np.log(factor))
    if head.driven:
        head.leave.bias[2 * head.bins :] += float(np.log(factor))
    return factor


def find_silence(detokenizer: U2SDetokenizer, store: SpeechStore) -> None:
    """Take the unit that utterances begin with most often for that of silence."""
    first = Counter(int(store.units(index)[0]) for index in range(len(store)) if store.utterances[index].units)
    ((unit, _),) = first.most_common(1)
    detokenizer.config = replace(detokenizer.config, silence=unit)


def some_of(store: SpeechStore, count: int) -> list[int]:
    """A fixed random choice: shards repeat the styles in a period, which even steps through them could miss."""
    return [int(index) for index in np.random.default_rng(0).permutation(len(store))[:count]]


def inputs_of(detokenizer: SpeechDetokenizer, store: SpeechStore, index: int) -> tuple[Tensor, Tensor]:
    """Units ``[1, U]`` of the neutral rendering (if there is one) and style ``[1, S]`` of another utterance."""
    source = store.neutral(index)
    units = torch.from_numpy(store.units(source if source is not None else index))[None]
    alike = store.by_style[store.utterances[index].style]
    reference = alike[(alike.index(index) + 1) % len(alike)]
    return units, detokenizer.embed_style(torch.from_numpy(store.samples(reference))[None])


@dataclass(frozen=True)
class Said:
    """A held-out utterance said again: its place in the store, its units ``[1, U]``, style and samples ``[T]``."""

    index: int
    units: Tensor
    style: Tensor
    samples: Tensor


def say_again(voice: SpeechDetokenizer, store: SpeechStore, count: int, folder: Path) -> Iterator[Said]:
    """Say utterances from all over ``store`` in their own style from neutral units; each is written beside the real
    sound."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, place in enumerate(np.linspace(0, len(store) - 1, min(count, len(store)))):
        index = round(float(place))
        units, style = inputs_of(voice, store, index)
        samples = voice.decode(units, style)[0]
        utterance = store.utterances[index]
        name = f"{number}-{utterance.gender}-{utterance.emotion}-{utterance.pitch}"
        save_wav(folder / f"{name}.wav", samples.numpy(), voice.sample_rate)
        if not (folder / f"{name}-real.wav").is_file():
            save_wav(folder / f"{name}-real.wav", store.samples(index), voice.sample_rate)
        yield Said(index, units, style, samples)


@torch.no_grad()
def write_samples(detokenizer: U2SDetokenizer, store: SpeechStore, count: int, folder: Path) -> dict[str, float]:
    """Say held-out utterances in their own style from neutral units; write real and decoded sound, measure the pitch.

    Returns the median distance of predicted and measured F0 in cents, where both are voiced, and the share of frames
    whose voicing differs.
    """
    cents, voicing = [], []
    for said in say_again(detokenizer, store, count, folder):
        prior = detokenizer.vits.prior(said.units, said.style)
        if prior.log_f0_BF is not None and prior.voicing_BF is not None:
            f0 = torch.from_numpy(store.f0(said.index))
            voiced = prior.voicing_BF[0] > 0
            both = voiced & (f0 > 0)
            cents.append((prior.log_f0_BF[0][both] - f0[both].log()).abs() * (1200 / np.log(2)))
            voicing.append((voiced != (f0 > 0)).float().mean())
    if not cents:
        return {}
    return {"f0_cents": float(torch.cat(cents).median()), "voicing_error": float(torch.stack(voicing).mean())}
