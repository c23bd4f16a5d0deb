"""Averaged weights: the language model is the mean, everything else is the later model's."""

from __future__ import annotations

import copy

import pytest
import torch

from emova.core.errors import InputError
from emova.model import EmovaForConditionalGeneration
from emova_train.export.average import average


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_language_model_is_the_mean(tiny_model, tiny_processor, tmp_path, share: float) -> None:
    later = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for parameter in later.parameters():
            parameter.add_(torch.randn_like(parameter))
    for name, model in (("before", tiny_model), ("after", later)):
        model.save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
    average(tmp_path / "before", tmp_path / "after", tmp_path / "mean", share)
    found = EmovaForConditionalGeneration.from_pretrained(tmp_path / "mean", dtype=torch.float32)
    old, new = dict(tiny_model.named_parameters()), dict(later.named_parameters())
    for name, parameter in found.named_parameters():
        spoken = name.startswith(("model.language_model.", "lm_head."))
        wanted = torch.lerp(old[name], new[name], share) if spoken else new[name]
        torch.testing.assert_close(parameter, wanted)


def test_what_does_not_fit_is_refused(tiny_model, tiny_processor, tmp_path) -> None:
    tiny_model.save_pretrained(tmp_path / "after")
    tiny_processor.save_pretrained(tmp_path / "after")
    with pytest.raises(InputError, match="no model.safetensors"):
        average(tmp_path / "nothing", tmp_path / "after", tmp_path / "mean")
    with pytest.raises(InputError, match="from 0 to 1"):
        average(tmp_path / "after", tmp_path / "after", tmp_path / "mean", 1.5)
    other = copy.deepcopy(tiny_model)
    other.model.language_model.norm.weight = torch.nn.Parameter(torch.ones(7))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="another shape"):
        average(tmp_path / "other", tmp_path / "after", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
