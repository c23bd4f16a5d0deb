"""Convolutions with a bounded, known receptive field, and the style-adaptive blocks that are built of them.

Every layer runs in two ways: on all frames at once, or, given a stream's ``Past``, on the new ones. It then gives the
frames that are certain by now, which look-ahead delays, and nothing is computed twice.

Shapes: B batch, C channels, F frames, S style channels. A mask ``[B, 1, F]`` is 1 on frames that exist: what lies
outside is silence to every layer, exactly as what lies before the first and after the last frame is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from emova.native.compiled import convolutions_for
from emova.native.convolution import Convolutions


@dataclass(frozen=True)
class Context:
    """How many frames before and after a frame can change it."""

    left: int = 0
    right: int = 0

    def __add__(self, other: Context) -> Context:
        return Context(self.left + other.left, self.right + other.right)

    def __or__(self, other: Context) -> Context:
        """The context of two branches side by side."""
        return Context(max(self.left, other.left), max(self.right, other.right))

    def coarser(self, factor: int) -> Context:
        """The same context in frames that are ``factor`` times as long."""
        return Context(-(-self.left // factor), -(-self.right // factor))


def total_context(modules: Iterable[nn.Module]) -> Context:
    """The context of ``modules`` one after another; each has an attribute ``context``."""
    total = Context()
    for module in modules:
        total = total + module.context  # type: ignore[operator]
    return total


class Past:
    """What the layers of one stream keep of its earlier frames. Frames are the last dimension of every tensor.

    Attributes:
        ending: no more frames come; what lies after the last one is silence.
    """

    def __init__(self) -> None:
        self.ending = False
        self._kept: dict[Hashable, Tensor] = {}
        self._of_style: dict[nn.Linear, Tensor] = {}

    def extend(self, owner: Hashable, x: Tensor, context: Context, span: int, stride: int) -> Tensor:
        """The input of those windows of ``span`` frames, every ``stride``, that new frames ``x`` complete."""
        kept = self._kept.get(owner)
        window = functional.pad(x, (context.left, 0)) if kept is None else torch.cat([kept, x], dim=-1)
        if self.ending:
            window = functional.pad(window, (0, context.right))
        count = max(0, (window.shape[-1] - span) // stride + 1)
        self._kept[owner] = window[..., count * stride :]
        return window[..., : (count - 1) * stride + span if count else 0]

    def join(self, owner: Hashable, branches: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The frames that all branches have by now; those that are ahead wait."""
        if (owner, 0) not in self._kept and len({x.shape[-1] for x in branches}) == 1:
            return branches
        waiting = []
        for index, x in enumerate(branches):
            kept = self._kept.get((owner, index))
            waiting.append(x if kept is None or not kept.shape[-1] else torch.cat([kept, x], dim=-1))
        count = min(x.shape[-1] for x in waiting)
        for index, x in enumerate(waiting):
            self._kept[owner, index] = x[..., count:]
        return tuple(x[..., :count] for x in waiting)

    def of_style(self, linear: nn.Linear, style_BS: Tensor) -> Tensor:
        """``linear(style_BS)``: a stream has one style, so it is computed once."""
        made = self._of_style.get(linear)
        if made is None:
            made = self._of_style[linear] = linear(style_BS)
        return made

    @property
    def size(self) -> int:
        """How many numbers are kept."""
        return sum(kept.numel() for kept in (*self._kept.values(), *self._of_style.values()))


def extend(past: Past | None, owner: Hashable, x: Tensor, context: Context, span: int, stride: int = 1) -> Tensor:
    """``x`` with what ``owner`` sees around it: silence at both ends, or what it keeps; empty if that is not enough."""
    if past is None:
        return functional.pad(x, (context.left, context.right))
    return past.extend(owner, x, context, span, stride)


def join(past: Past | None, owner: Hashable, *branches: Tensor) -> tuple[Tensor, ...]:
    """Branches of different look-ahead, at the same frames again."""
    return branches if past is None else past.join(owner, branches)


def of_style(past: Past | None, linear: nn.Linear, style_BS: Tensor) -> Tensor:
    """What ``linear`` makes of the style."""
    return linear(style_BS) if past is None else past.of_style(linear, style_BS)


class BoundedConv(nn.Conv1d):
    """A convolution over F that keeps the number of frames and looks ``lookahead`` taps into the future.

    Args:
        lookahead: taps (not frames) after the centre; half of the kernel if None.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, dilation: int = 1, lookahead: int | None = None,
        groups: int = 1,
    ) -> None:  # fmt: skip
        super().__init__(inputs, outputs, kernel, dilation=dilation, groups=groups)
        ahead = (kernel - 1) // 2 if lookahead is None else lookahead
        assert 0 <= ahead < kernel
        self.context = Context((kernel - 1 - ahead) * dilation, ahead * dilation)
        self.span = (kernel - 1) * dilation + 1

    def forward(self, x_BCF: Tensor, past: Past | None = None) -> Tensor:
        return self.beside(x_BCF, past)[1]

    def beside(self, x_BCF: Tensor, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """The frames of the input that the output is of, for a residual path, and the output."""
        window = self.window(x_BCF, past)
        count = max(0, window.shape[-1] - self.span + 1)
        same = window.narrow(-1, self.context.left if count else 0, count)
        if not count:
            return same, x_BCF.new_zeros(len(x_BCF), self.out_channels, 0)
        compiled = convolutions_for(window, self.weight) if self.groups == 1 else None
        if compiled is not None:
            return same, compiled.convolve(window, self)
        return same, super().forward(window)

    def window(self, x_BCF: Tensor, past: Past | None = None) -> Tensor:
        """The frames of the input that the output sees."""
        return extend(past, self, x_BCF, self.context, self.span)


class Pointwise(nn.Conv1d):
    """A convolution over one frame, any number of frames (also none)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x_BCF: Tensor) -> Tensor:
        compiled = convolutions_for(x_BCF, self.weight) if x_BCF.shape[2] else None
        if compiled is not None:
            return compiled.convolve(x_BCF, self)
        return self.frames_first(x_BCF.transpose(1, 2)).transpose(1, 2)

    def frames_first(self, x_BFC: Tensor) -> Tensor:
        """The same over ``[B, F, C]``, to ``[B, F, O]``: few frames take a third of the time as a matrix product over
        channels that lie side by side."""
        return functional.linear(x_BFC, self.weight.squeeze(2), self.bias)


class ChannelNorm(nn.Module):
    """Layer normalisation over C of ``[B, C, F]``, with a learned or a style-made gain and bias.

    With ``style_size`` it is the style-adaptive normalisation of Meta-StyleSpeech (Min et al. 2021, §3.1): gain and
    bias are linear in the style vector.
    """

    def __init__(self, channels: int, style_size: int = 0) -> None:
        super().__init__()
        self.channels = channels
        if style_size:
            self.from_style = nn.Linear(style_size, 2 * channels)
            nn.init.normal_(self.from_style.weight, std=0.02)
            with torch.no_grad():
                self.from_style.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))
        else:
            self.gain = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCF: Tensor, style_BS: Tensor | None = None, past: Past | None = None) -> Tensor:
        return self.frames_first(x_BCF.transpose(1, 2), style_BS, past).transpose(1, 2)

    def frames_first(self, x_BFC: Tensor, style_BS: Tensor | None = None, past: Past | None = None) -> Tensor:
        """The same over ``[B, F, C]``."""
        size = (self.channels,)
        if style_BS is None:
            return functional.layer_norm(x_BFC, size, self.gain, self.bias)
        gain_BC, bias_BC = self.gain_and_bias(len(x_BFC), style_BS, past)
        return torch.addcmul(bias_BC[:, None], functional.layer_norm(x_BFC, size), gain_BC[:, None])

    def gain_and_bias(self, batch: int, style_BS: Tensor | None, past: Past | None = None) -> tuple[Tensor, Tensor]:
        """Each ``[B, C]``."""
        if style_BS is None:
            return self.gain.expand(batch, -1), self.bias.expand(batch, -1)
        gain_BC, bias_BC = of_style(past, self.from_style, style_BS).chunk(2, dim=-1)
        return gain_BC, bias_BC


class ConvBlock(nn.Module):
    """A ConvNeXt block (Liu et al. 2022) over time: depthwise convolution, normalisation, two pointwise layers."""

    def __init__(
        self, channels: int, hidden: int, kernel: int, *, dilation: int = 1, lookahead: int | None = None,
        style_size: int = 0, scale: float = 0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        self.depthwise = BoundedConv(
            channels, channels, kernel, dilation=dilation, lookahead=lookahead, groups=channels
        )
        self.norm = ChannelNorm(channels, style_size)
        self.widen = Pointwise(channels, hidden)
        self.narrow = Pointwise(hidden, channels)
        self.scale = nn.Parameter(torch.full((channels, 1), scale))
        self.context = self.depthwise.context

    def forward(
        self, x_BCF: Tensor, style_BS: Tensor | None = None, mask_B1F: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        if mask_B1F is not None:
            x_BCF = x_BCF * mask_B1F
        elif (compiled := convolutions_for(x_BCF, self.scale)) is not None:
            return self._at_once(compiled, x_BCF, style_BS, past)
        x_BCF, update = self.depthwise.beside(x_BCF, past)
        update_BFC = self.norm.frames_first(update.transpose(1, 2), style_BS, past)
        update_BFC = self.narrow.frames_first(functional.gelu(self.widen.frames_first(update_BFC)))
        return torch.addcmul(x_BCF, self.scale, update_BFC.transpose(1, 2))

    def _at_once(self, compiled: Convolutions, x_BCF: Tensor, style_BS: Tensor | None, past: Past | None) -> Tensor:
        """The same by compiled code."""
        window = self.depthwise.window(x_BCF, past)
        if window.shape[2] < self.depthwise.span:
            return x_BCF[..., :0]
        gain_BC, bias_BC = self.norm.gain_and_bias(len(x_BCF), style_BS, past)
        left = self.depthwise.context.left
        return compiled.conv_block(window, left, self.depthwise, gain_BC, bias_BC, self.widen, self.narrow, self.scale)


class WaveNet(nn.Module):
    """Gated convolutions with residual and skip paths (van den Oord et al. 2016; as in VITS), style-conditioned."""

    def __init__(
        self, channels: int, kernel: int, layers: int, style_size: int, *, dilation_rate: int = 1,
        lookahead: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels = channels
        self.gated = nn.ModuleList(
            BoundedConv(channels, 2 * channels, kernel, dilation=dilation_rate**index, lookahead=lookahead)
            for index in range(layers)
        )
        self.mixed = nn.ModuleList(
            Pointwise(channels, channels if index == layers - 1 else 2 * channels) for index in range(layers)
        )
        self.from_style = nn.Linear(style_size, 2 * channels * layers)
        self.context = total_context(self.gated)

    def forward(
        self, x_BCF: Tensor, style_BS: Tensor, mask_B1F: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        styles = of_style(past, self.from_style, style_BS)[:, :, None].chunk(len(self.gated), dim=1)
        skipped: Tensor | None = None
        for gated, mixed, style_BC1 in zip(self.gated, self.mixed, styles, strict=True):
            assert isinstance(gated, BoundedConv)
            if mask_B1F is not None:
                x_BCF = x_BCF * mask_B1F
            x_BCF, hidden = gated.beside(x_BCF, past)
            filtered, gate = (hidden + style_BC1).chunk(2, dim=1)
            update = mixed(torch.tanh(filtered) * torch.sigmoid(gate))
            if update.shape[1] > self.channels:
                residual, update = update.chunk(2, dim=1)
                x_BCF = x_BCF + residual
            if skipped is not None:
                skipped, update = join(past, mixed, skipped, update)
                update = skipped + update
            skipped = update
        assert skipped is not None
        return skipped
