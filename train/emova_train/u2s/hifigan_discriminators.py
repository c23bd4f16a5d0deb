"""HiFi-GAN's discriminators (Kong et al. 2020, §2.3): of several periods, and of several scales.

Shapes: B batch, T samples, P period, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm


class PeriodDiscriminator(nn.Module):
    """2-D convolutions over samples that lie a period apart."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 4 * channels, 16 * channels, 32 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs, outputs, (5, 1), (3, 1), padding=(2, 0)))
            for inputs, outputs in zip(widths, widths[1:], strict=False)
        )
        self.layers.append(weight_norm(nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0))))
        self.leave = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, samples_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores, and the hidden maps."""
        padded_BT = functional.pad(samples_BT[:, None], (0, -samples_BT.shape[1] % self.period), "reflect")[:, 0]
        x = padded_BT.unflatten(1, (-1, self.period))[:, None]
        maps = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.1)
            maps.append(x)
        return self.leave(x).float(), maps


class ScaleDiscriminator(nn.Module):
    """1-D convolutions over the sound, made coarser ``halvings`` times; the finest has spectral normalisation."""

    def __init__(self, halvings: int, channels: int) -> None:
        super().__init__()
        self.halvings = halvings
        norm = weight_norm if halvings else spectral_norm
        sizes = [
            (1, channels, 15, 1, 1), (channels, channels, 41, 2, 4), (channels, 2 * channels, 41, 2, 16),
            (2 * channels, 4 * channels, 41, 4, 16), (4 * channels, 8 * channels, 41, 4, 16),
            (8 * channels, 8 * channels, 41, 1, 16), (8 * channels, 8 * channels, 5, 1, 1),
        ]  # fmt: skip
        self.layers = nn.ModuleList(
            norm(nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups))
            for inputs, outputs, kernel, stride, groups in sizes
        )
        self.leave = norm(nn.Conv1d(8 * channels, 1, 3, padding=1))

    def forward(self, samples_BT: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores, and the hidden maps."""
        x_BCT = samples_BT[:, None]
        for _ in range(self.halvings):
            x_BCT = functional.avg_pool1d(x_BCT, 4, 2, padding=2)
        maps = []
        for layer in self.layers:
            x_BCT = functional.leaky_relu(layer(x_BCT), 0.1)
            maps.append(x_BCT)
        return self.leave(x_BCT).float(), maps
