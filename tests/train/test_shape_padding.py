"""What is filled up is cut off again: outputs and gradients are those of the batch as it was."""

from __future__ import annotations

import copy

import pytest
import torch

from emova_train.data.shape_padding import fill_up


@pytest.mark.parametrize("tiles", [1, 3, 4, 5])
def test_tower_and_projector_give_the_same_with_and_without(tiny_model, tiles: int) -> None:
    plain, filled = tiny_model.model, copy.deepcopy(tiny_model.model)
    seen: list[int] = []
    filled.vision_tower.patch_embed.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    for part in (filled.vision_tower, filled.projector):
        fill_up(part, 4)
    size = plain.config.vision.image_size
    pixels = torch.randn(tiles, 3, size, size, generator=torch.Generator().manual_seed(tiles))
    found = []
    for model in (plain, filled):
        model.zero_grad()
        features = model.get_image_features(pixels)
        features.square().sum().backward()
        found.append((features, model.vision_tower.patch_embed.proj.weight.grad))
    assert seen == [-(-tiles // 4) * 4]
    torch.testing.assert_close(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1])
