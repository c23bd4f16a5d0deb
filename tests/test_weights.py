"""Weight folders: what is saved is what is loaded; damage is told in one line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from emova.core.errors import InputError
from emova.core.weights import load_state, pack, read_folder, save_folder, unpack


@dataclass(frozen=True)
class TinyConfig:
    width: int = 8


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16))


def test_full_storage_is_bit_equal(module: nn.Module, tmp_path: Path) -> None:
    save_folder(tmp_path, TinyConfig(), module.state_dict(), "float32")
    config, state = read_folder(tmp_path)
    assert config == {"width": 8}
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_narrow_storage_is_stable_and_close(module: nn.Module, storage: str) -> None:
    state = module.state_dict()
    once = unpack(pack(state, storage))  # type: ignore[arg-type]
    twice = unpack(pack(once, storage))  # type: ignore[arg-type]
    for name, tensor in state.items():
        error = (once[name] - tensor).abs().max()
        assert error <= (0.002 if storage == "float16" else 0.006) * tensor.abs().max()
        torch.testing.assert_close(twice[name], once[name], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("size", [1e-12, 1e-4, 1.0, 1e4])
def test_what_was_stored_in_int8_rows_is_stored_so_again(size: float) -> None:
    torch.manual_seed(1)
    state = {"wide": size * torch.randn(40, 33), "conv": size * torch.randn(6, 3, 2, 2), "zeros": torch.zeros(3, 5)}
    once = pack(state, "int8")
    again = pack(unpack(once), "int8")
    assert once.keys() == again.keys()
    assert all(once[name].dtype == again[name].dtype and torch.equal(once[name], again[name]) for name in once)
    assert not unpack(once)["zeros"].any()
    for name, tensor in state.items():
        step = tensor.flatten(1).abs().amax(dim=1).div(127)
        assert ((unpack(once)[name] - tensor).flatten(1).abs() <= 0.51 * step[:, None]).all()


def test_float16_scales_of_earlier_versions_stay() -> None:
    torch.manual_seed(2)
    whole = torch.randint(-127, 128, (50, 31), dtype=torch.int8)
    whole[:, 0] = 127
    stored = {"w": whole, "w.int8_scale": (0.01 + torch.rand(50)).half()}
    again = pack(unpack(stored), "int8")
    assert again["w.int8_scale"].dtype == torch.float16
    assert all(torch.equal(again[name], tensor) for name, tensor in stored.items())


def test_int8_rows_without_their_scales_are_not_taken_for_numbers() -> None:
    packed = pack({"w": torch.randn(5, 3)}, "int8")
    scales = packed["w.int8_scale"]
    for wrong in ({"w": packed["w"]}, packed | {"w.int8_scale": scales[:-1]}, packed | {"w.int8_scale": scales[:1]}):
        with pytest.raises(SafetensorError, match="w: its rows of int8 have no scales"):
            unpack(wrong)


def test_only_some_names_are_stored_in_int8() -> None:
    state = {"a.w": torch.randn(4, 4), "b.w": torch.randn(4, 4), "a.v": torch.randn(4)}
    packed = pack(state, "int8", ("a.",))
    assert {name: tensor.dtype for name, tensor in packed.items() if "scale" not in name} == {
        "a.w": torch.int8, "b.w": torch.float16, "a.v": torch.float16,
    }  # fmt: skip


def test_loading_names_the_first_difference(module: nn.Module, tmp_path: Path) -> None:
    state = dict(module.state_dict())
    state.pop("0.bias")
    with pytest.raises(InputError, match="lacks tensor 0.bias"):
        load_state(module, state, tmp_path)
    load_state(module, state, tmp_path, optional=("0.",))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_or_damaged_file_is_named(module: nn.Module, tmp_path: Path, name: str) -> None:
    save_folder(tmp_path, TinyConfig(), module.state_dict())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    with pytest.raises(InputError, match="damaged"):
        read_folder(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        read_folder(tmp_path)


def test_config_json_is_plain(module: nn.Module, tmp_path: Path) -> None:
    save_folder(tmp_path, TinyConfig(3), {})
    assert json.loads((tmp_path / "config.json").read_text()) == {"width": 3}
