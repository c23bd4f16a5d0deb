"""A model that engines are compared on."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture()
def lively_model(tiny_model):
    """Weights large enough that scores differ clearly."""
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return tiny_model
