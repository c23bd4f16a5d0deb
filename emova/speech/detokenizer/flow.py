"""The normalising flow between the posterior's latent frames and the prior (VITS, Kim et al. 2021, §2.1.3).

Shapes: B batch, Z latent channels, H = Z / 2, F frames, S style channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from emova.speech.detokenizer.layers import Context, Past, Pointwise, WaveNet, join, total_context


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of the coupling layers; ``lookahead`` counts future taps of a convolution, None for half of them."""

    layers: int = 4
    channels: int = 64
    kernel: int = 5
    depth: int = 2  # gated convolutions in a coupling layer
    lookahead: int | None = 0


class Coupling(nn.Module):
    """Shifts one half of the channels by a function of the other half; the volume stays."""

    def __init__(self, latent_channels: int, config: FlowConfig, style_size: int) -> None:
        super().__init__()
        half = latent_channels // 2
        self.enter = Pointwise(half, config.channels)
        self.net = WaveNet(config.channels, config.kernel, config.depth, style_size, lookahead=config.lookahead)
        self.leave = Pointwise(config.channels, half)
        # The identity at first: training starts from a prior that is the posterior.
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)
        self.context = self.net.context

    def shift(self, kept_BHF: Tensor, style_BS: Tensor, mask_B1F: Tensor | None, past: Past | None = None) -> Tensor:
        """What is added to the other half."""
        return self.leave(self.net(self.enter(kept_BHF), style_BS, mask_B1F, past)).float()


class Flow(nn.Module):
    """Mean-only coupling layers; between two layers the channels are reversed, so that both halves are moved."""

    def __init__(self, latent_channels: int, config: FlowConfig, style_size: int) -> None:
        super().__init__()
        assert latent_channels % 2 == 0
        self.couplings = nn.ModuleList(Coupling(latent_channels, config, style_size) for _ in range(config.layers))
        self.context: Context = total_context(self.couplings)

    def forward(self, z_BZF: Tensor, style_BS: Tensor, mask_B1F: Tensor | None = None) -> Tensor:
        """The posterior's latents to the prior's space."""
        for coupling in self.couplings:
            assert isinstance(coupling, Coupling)
            kept, moved = z_BZF.chunk(2, dim=1)
            z_BZF = torch.cat([kept, moved + coupling.shift(kept, style_BS, mask_B1F)], dim=1).flip(1)
        return z_BZF

    def inverse(
        self, z_BZF: Tensor, style_BS: Tensor, mask_B1F: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """The prior's latents to the posterior's space: ``inverse(forward(z)) == z``."""
        for coupling in reversed(self.couplings):
            assert isinstance(coupling, Coupling)
            kept, moved = z_BZF.flip(1).chunk(2, dim=1)
            kept, moved, shift = join(past, coupling, kept, moved, coupling.shift(kept, style_BS, mask_B1F, past))
            z_BZF = torch.cat([kept, moved - shift], dim=1)
        return z_BZF
