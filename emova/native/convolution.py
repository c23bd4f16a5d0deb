"""``convolution.c``: convolutions over time in compiled code, for a voice that is streamed.

A chunk of a stream has few frames, and torch then spends most of its time on starting operators. Training, padded
batches and GPUs stay with torch.

Shapes: B batch, C channels, I inputs, O outputs, W frames of a window, F frames.
"""

from __future__ import annotations

from ctypes import CDLL, Structure, byref, c_double, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor, nn

from emova.native.kernel import Scratch

SOURCE = Path(__file__).with_name("convolution.c")
EPS = 1e-5
"""Of the normalisation, as in torch's ``layer_norm``."""


class _Block(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("channels", "hidden", "taps", "dilation", "left")),
        ("eps", c_double),
        *(
            (name, c_void_p)
            for name in (
                "depthwise", "depthwise_bias", "gain", "bias", "widen", "widen_bias", "narrow", "narrow_bias", "scale",
            )
        ),
    ]  # fmt: skip


class Convolutions:
    """What ``convolution.c`` does, on torch's modules and tensors: float32 on the CPU, no gradients.

    Args:
        lib: the file as it was loaded.
    """

    def __init__(self, lib: CDLL) -> None:
        number, address = c_int64, c_void_p
        lib.convolve_scratch.restype = lib.block_scratch.restype = number
        lib.convolve_scratch.argtypes, lib.block_scratch.argtypes = [number] * 3, [address]
        lib.convolve.restype = lib.conv_block.restype = None
        lib.convolve.argtypes = [
            number, number, address, number, number, number, number, address, address, number, address, number,
            address,
        ]  # fmt: skip
        lib.conv_block.argtypes = [address, number, number, address, number, address, number, address]
        self._lib, self._scratch = lib, Scratch()

    def convolve(self, window_BIW: Tensor, conv: nn.Conv1d) -> Tensor:
        """What ``conv``, of one group and stride 1, makes of the window: ``[B, O, F]``, F > 0."""
        lib, threads = self._lib, torch.get_num_threads()
        taps, dilation = conv.kernel_size[0], conv.dilation[0]
        window_BIW, made_BOF = _side_by_side(window_BIW), _frames_for(window_BIW, conv)
        weight, bias = _numbers(conv)
        scratch = self._scratch.floats(threads * lib.convolve_scratch(conv.in_channels, taps, dilation))
        frames = made_BOF.shape[2]
        for window_IW, made_OF in zip(window_BIW, made_BOF, strict=True):
            lib.convolve(
                threads, frames, window_IW.data_ptr(), window_IW.stride(0), conv.in_channels, taps, dilation,
                weight.data_ptr(), bias.data_ptr(), conv.out_channels, made_OF.data_ptr(), frames, scratch.data_ptr(),
            )  # fmt: skip
        return made_BOF

    def conv_block(
        self, window_BCW: Tensor, left: int, depthwise: nn.Conv1d, gain_BC: Tensor, bias_BC: Tensor,
        widen: nn.Conv1d, narrow: nn.Conv1d, scale_C1: Tensor,
    ) -> Tensor:  # fmt: skip
        """A ConvNeXt block over the window: ``[B, C, F]``, F > 0, which begin ``left`` frames after the window does.

        Args:
            gain_BC, bias_BC: of the normalisation.
        """
        lib, threads = self._lib, torch.get_num_threads()
        taps, dilation = depthwise.kernel_size[0], depthwise.dilation[0]
        window_BCW, made_BCF = _side_by_side(window_BCW), _frames_for(window_BCW, depthwise)
        frames = made_BCF.shape[2]
        gain_BC, bias_BC = gain_BC.contiguous(), bias_BC.contiguous()
        before_norm = _numbers(depthwise)
        after_norm = (*_numbers(widen), *_numbers(narrow), scale_C1.contiguous())
        for window_CW, gain_C, bias_C, made_CF in zip(window_BCW, gain_BC, bias_BC, made_BCF, strict=True):
            parts = (*before_norm, gain_C, bias_C, *after_norm)
            block = _Block(
                depthwise.in_channels,
                widen.out_channels,
                taps,
                dilation,
                left,
                EPS,
                *(part.data_ptr() for part in parts),
            )
            scratch = self._scratch.floats(threads * lib.block_scratch(byref(block)))
            lib.conv_block(
                byref(block), threads, frames, window_CW.data_ptr(), window_CW.stride(0), made_CF.data_ptr(), frames,
                scratch.data_ptr(),
            )  # fmt: skip
        return made_BCF


def _frames_for(window_BIW: Tensor, conv: nn.Conv1d) -> Tensor:
    """Room for what ``conv`` makes of the window."""
    frames = window_BIW.shape[2] - (conv.kernel_size[0] - 1) * conv.dilation[0]
    assert frames > 0
    return torch.empty(len(window_BIW), conv.out_channels, frames)


def _numbers(conv: nn.Conv1d) -> tuple[Tensor, Tensor]:
    """Weight and bias as they lie in memory, row by row."""
    assert conv.bias is not None
    return conv.weight.contiguous(), conv.bias.contiguous()


def _side_by_side(x_BCW: Tensor) -> Tensor:
    """``x_BCW`` with the frames of a channel side by side in memory."""
    return x_BCW if x_BCW.stride(2) == 1 or x_BCW.shape[2] == 1 else x_BCW.contiguous()
