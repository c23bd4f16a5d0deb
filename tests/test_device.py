"""A device that is not there is told, with those that are, before anything is loaded."""

from __future__ import annotations

import pytest
import torch

from emova import Assistant, find_checkpoint
from emova.checkpoint.loading import load_parts, load_speech_tokenizer, load_voice
from emova.checkpoint.registry import load_detokenizer, load_tokenizer
from emova.core.device import devices, find_device
from emova.core.errors import InputError

NANO = find_checkpoint("emova-nano")
DOORS = {
    "Assistant": lambda device: Assistant.from_pretrained(device=device),
    "parts": lambda device: load_parts(NANO, device),
    "speech tokenizer": lambda device: load_speech_tokenizer(NANO, device),
    "voice": lambda device: load_voice(NANO, device),
    "tokenizer's folder": lambda device: load_tokenizer(NANO / "speech_tokenizer", device),
    "detokenizer's folder": lambda device: load_detokenizer(NANO / "speech_detokenizer", device),
}


@pytest.mark.parametrize("name", ["cuda:77", "mps:3", "xpu:9", "meta", "nonsense", "", "cuda:x", "cpu,cuda", 77, None])
def test_what_is_not_there_is_told(name: str) -> None:
    with pytest.raises(InputError, match="^device: .* it has cpu") as told:
        find_device(name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ["cuda:77", "nonsense"])
def test_at_every_door(door: str, name: str) -> None:
    with pytest.raises(InputError, match=f"^device: {name}: "):
        DOORS[door](name)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
@pytest.mark.parametrize("name", ["cuda", "mps", "cuda:0"])
def test_without_an_accelerator_there_is_the_cpu_alone(name: str) -> None:
    assert devices() == ["cpu"]
    with pytest.raises(InputError, match="it has cpu$"):
        find_device(name)


@pytest.mark.parametrize("name", ["cpu", "cpu:0", torch.device("cpu"), *devices()])
def test_what_is_there_is_found(name: str | torch.device) -> None:
    assert find_device(name) == torch.device(name)
