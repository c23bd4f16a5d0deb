"""What a frozen part of a tower made of a picture is computed once, and what is learnt is the same."""

from __future__ import annotations

import torch

from emova.vision.internvit import InternViT, InternViTConfig
from emova_train.stages.remembered import Remembered, remember_frozen_part

CONFIG = InternViTConfig(image_size=32, patch_size=8, width=16, depth=3, heads=2, ffn_width=32)


def _tower(learning: int) -> InternViT:
    torch.manual_seed(3)
    tower = InternViT(CONFIG).requires_grad_(False)
    for block in tower.layers[learning:]:
        block.requires_grad_(True)
    return tower


def test_features_and_gradients_are_those_of_the_tower_itself() -> None:
    pixels = torch.randn(4, 3, 32, 32)
    for learning in (0, 1, 3):
        plain, remembered = _tower(learning), _tower(learning)
        assert remember_frozen_part(remembered) == learning
        assert remembered.state_dict().keys() == plain.state_dict().keys()
        for drawn in (pixels[:3], pixels[[2, 3, 0]]):  # some of them again, in another batch
            seen, wanted = remembered(drawn), plain(drawn)
            torch.testing.assert_close(seen, wanted)
            if learning < len(plain.layers):
                seen.square().mean().backward()
                wanted.square().mean().backward()
        for (name, own), other in zip(remembered.named_parameters(), plain.parameters(), strict=True):
            assert (own.grad is None) == (other.grad is None), name
            if own.grad is not None:
                torch.testing.assert_close(own.grad, other.grad)


def test_what_learns_is_never_remembered() -> None:
    for name in ("patch_embed.proj.weight", "pos_embed"):
        tower = _tower(1)
        tower.get_parameter(name).requires_grad_(True)
        assert remember_frozen_part(tower) is None and "forward" not in vars(tower)
    dropping = InternViT(InternViTConfig(**{**vars(CONFIG), "drop_path": 0.1})).requires_grad_(False)
    assert remember_frozen_part(dropping) is None
    assert remember_frozen_part(torch.nn.Identity()) is None


def test_each_picture_is_computed_once_and_alone_until_the_room_is_used() -> None:
    asked: list[int] = []

    def compute(tiles: torch.Tensor) -> torch.Tensor:
        asked.append(len(tiles))
        return tiles.flatten(1)

    pixels = torch.arange(3 * 12, dtype=torch.float32).reshape(3, 3, 2, 2)
    remembered = Remembered(compute, limit_bytes=2 * 12 * 4)
    for _ in range(2):
        assert torch.equal(remembered(pixels), pixels.flatten(1))
    assert asked == [1, 1, 1, 1]  # the third had no room
    with torch.autocast("cpu", torch.bfloat16):
        remembered(pixels[:1])
    assert len(asked) == 5  # may be other numbers
    half = pixels[:2].bfloat16()  # a tower whose weights are cast
    assert torch.equal(Remembered(compute)(half), half.flatten(1))
