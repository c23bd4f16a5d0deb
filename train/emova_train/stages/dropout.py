"""Dropout on the language model's hidden states (GLM-4-Voice §4.2.2), whatever family the model is of."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from emova.core.errors import InputError
from emova.model import EmovaForConditionalGeneration

_BRANCHES = ("self_attn", "mlp")


def drop_hidden_states(model: EmovaForConditionalGeneration, rate: float) -> None:
    """In training, drop ``rate`` of what attention and feed-forward give, before it is added to the residual stream,
    as GLM's ``hidden_dropout`` does. Weights and exports know nothing of it.

    Raises:
        InputError: the model's layers have other parts.
    """

    def drop(module: nn.Module, inputs: object, output: object) -> object:
        if not module.training:
            return None
        if isinstance(output, tuple):  # attention gives its weights too
            return (functional.dropout(output[0], rate), *output[1:])
        assert isinstance(output, torch.Tensor)
        return functional.dropout(output, rate)

    for layer in model.model.language_model.layers:
        for name in _BRANCHES:
            branch = getattr(layer, name, None)
            if not isinstance(branch, nn.Module):
                raise InputError(f"hidden_dropout={rate:g}: this language model's layers have no {name}; give 0")
            branch.register_forward_hook(drop)
