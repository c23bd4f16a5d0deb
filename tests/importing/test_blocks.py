"""How much hearing and speaking block by block differs from the whole, with full-size weights made by the rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from emova.checkpoint.importing import emova_tokenizer
from emova.checkpoint.importing.mapping import Report, filled
from emova.speech.audio import load_audio
from emova.speech.detokenizer.emova_u2s.detokenizer import EmovaU2SDetokenizer
from tests.importing.official import InMemory, fill, keys
from tests.importing.official import emova_tokenizer as official
from tests.importing.test_emova_tokenizer import voices
from tests.streaming.test_protocol import EXAMPLES

pytestmark = pytest.mark.slow


def digits(units: torch.Tensor) -> torch.Tensor:
    return torch.stack([units // 8**place % 8 for place in range(4)])


def test_ears_that_hear_blocks() -> None:
    ears, _, _ = emova_tokenizer.read(InMemory(official(keys()["golden_s2u"])), {}, Report())
    question = torch.from_numpy(load_audio(EXAMPLES / "question.wav", 16_000))
    audio = torch.cat([torch.cat([question * (0.5 + 0.1 * i), voices(1.2, i)[0]]) for i in range(8)])[None]
    ears.config = replace(ears.config, joined=False)
    whole = ears.encode(audio)[0]
    ears.config = replace(ears.config, block_units=24)
    heard = ears.encode(audio)[0]
    equal, same = (heard == whole).float().mean(), (digits(heard) == digits(whole)).float().mean()
    print(f"{float(equal):.1%} of units, {float(same):.1%} of digits")
    assert equal > 0.4 and same > 0.8 and (digits(heard) - digits(whole)).abs().max() <= 1


def test_a_voice_that_speaks_blocks() -> None:
    shapes = {name: shape for name, shape in keys()["emova_u2s"].items() if name.startswith("decoder.")}
    tensors = InMemory({name.removeprefix("decoder."): fill(name, shape) for name, shape in shapes.items()})
    config = emova_tokenizer.u2s_config(tensors, 256)
    voice = filled(lambda: EmovaU2SDetokenizer(config), emova_tokenizer.u2s_names(config), tensors, Report())
    generator = torch.Generator().manual_seed(0)
    units, style = torch.randint(0, 4096, (1, 200), generator=generator), torch.randn(1, 256, generator=generator)
    style, noise = style / style.norm(), 0.8 * torch.randn(1, 2, 200, generator=generator)
    with torch.no_grad():
        whole = voice.frames(units, style, noise)[2]
        parts = []
        for start in range(0, 200, config.block_units):
            first, last = max(0, start - config.left_units), start + config.block_units + config.right_units
            frames = voice.frames(units[:, first:last], style, noise[..., first:last])[2]
            parts.append(frames[:, start - first : start - first + config.block_units])
    equal = (torch.cat(parts, dim=1) == whole).float().mean()
    print(f"{float(equal):.1%} of durations")
    assert equal > 0.85
