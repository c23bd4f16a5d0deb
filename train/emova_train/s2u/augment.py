"""Changes of mel frames that keep the time axis: other vocal tracts, hidden bands.

Shapes: B rows, M mel bins, F frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emova.speech.features import MelConfig, hz_to_mel, mel_edges


def warp_matrix(config: MelConfig, factors_B: Tensor) -> Tensor:
    """Matrices ``[B, M, M]`` that stretch the frequency axis of mel frames by ``factors_B``."""
    centres = mel_edges(config)[1:-1].float()
    edges = hz_to_mel(mel_edges(config).float())
    step = (edges[-1] - edges[0]) / (len(edges) - 1)
    wanted = hz_to_mel((centres[None] * factors_B[:, None].cpu()).clamp(max=config.f_max))
    bins = ((wanted - edges[0]) / step - 1).clamp(0, config.n_mels - 1)
    distance = (bins[:, :, None] - torch.arange(config.n_mels)[None, None]).abs()
    return (1 - distance).clamp(min=0).to(factors_B.device)


def hide_bands(mel_BMF: Tensor, widest: int) -> Tensor:
    """``[B, M, F]`` with two bands a row set to the row's mean (frequency masks of SpecAugment, Park et al. 2019)."""
    bins = torch.arange(mel_BMF.shape[1], device=mel_BMF.device)
    hidden_BM = torch.zeros(mel_BMF.shape[:2], dtype=torch.bool, device=mel_BMF.device)
    for _ in range(2):
        width_B1, place_B1 = torch.rand(2, len(mel_BMF), 1, device=mel_BMF.device).unbind()
        first_B1 = (place_B1 * (mel_BMF.shape[1] - widest)).floor()
        hidden_BM |= (bins >= first_B1) & (bins < first_B1 + (width_B1 * (widest + 1)).floor())
    return torch.where(hidden_BM[:, :, None], mel_BMF.mean((1, 2), keepdim=True), mel_BMF)


def warp_mels(mel_BMF: Tensor, config: MelConfig, factors_B: Tensor, widest: int) -> Tensor:
    """``[B, M, F]`` of other vocal tracts (``warp_matrix``), with bands hidden if ``widest`` is more than 0."""
    warped_BMF = torch.matmul(warp_matrix(config, factors_B), mel_BMF)
    return hide_bands(warped_BMF, widest) if widest else warped_BMF
