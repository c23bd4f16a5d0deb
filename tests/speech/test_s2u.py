"""The S2U tokenizer's laws: streamed equals offline, rows of a batch do not mix, saved equals loaded."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emova.core.config import config_from_dict, load_config
from emova.core.errors import InputError
from emova.core.weights import read_folder
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.speech.tokenizer.quantizers import EvenProjection, FiniteScalarQuantizer
from emova.speech.tokenizer.s2u import S2UConfig, S2UTokenizer
from emova.speech.tokenizer.spiral import SpiralConvConfig, SpiralStageConfig, block_causal_mask, sinusoids

CONFIGS = Path(__file__).parents[2] / "configs" / "s2u"
TINY = S2UConfig(
    stages=[
        SpiralStageConfig([SpiralConvConfig(24, 3, 1), SpiralConvConfig(24, 3, 2)], 2, 2, 32, positions=True),
        SpiralStageConfig([SpiralConvConfig(32, 2, 2)], 1, 2, 48),
    ],
    block_units=4,
    left_blocks=2,
)
# A centred convolution behind attention waits for a block of that attention.
LATE_LOOK_AHEAD = replace(TINY, stages=[TINY.stages[0], SpiralStageConfig([SpiralConvConfig(32, 4, 2)], 1, 2, 48)])
# Other kernels: even and odd, wider than the stride and as wide, several strides.
WIDE_KERNELS = replace(
    TINY,
    stages=[
        SpiralStageConfig([SpiralConvConfig(16, 5, 2), SpiralConvConfig(24, 5, 1)], 1, 2, 32),
        SpiralStageConfig(
            [SpiralConvConfig(24, 5, 2, centred=False), SpiralConvConfig(32, 1, 1)], 1, 2, 48, positions=True
        ),
    ],
)


def tiny(config: S2UConfig = TINY) -> S2UTokenizer:
    torch.manual_seed(0)
    model = S2UTokenizer(config).eval()
    # Statistics as after training, so that units vary.
    vectors = model.project.linear(model.encoder(model.mel(speech(1, 32000))))
    model.project.mean.copy_(vectors.mean((0, 1)))
    model.project.variance.copy_(vectors.var((0, 1)))
    return model


def speech(rows: int, length: int) -> torch.Tensor:
    """Noise under a changing envelope."""
    generator = torch.Generator().manual_seed(length)
    envelope = torch.sin(torch.arange(length) / 900.0).square() + 0.05
    return torch.randn(rows, length, generator=generator) * envelope * 0.2


def test_it_is_a_speech_tokenizer() -> None:
    model = tiny()
    assert isinstance(model, SpeechTokenizer)
    assert (model.sample_rate, model.unit_rate, model.codebook_size) == (16000, 25.0, 4096)


@pytest.mark.parametrize("length", [0, 1, 640, 641, 12345, 32000])
def test_one_unit_for_each_begun_40_ms(length: int) -> None:
    (units,) = tiny().encode(speech(1, length))
    assert units.dtype == torch.int64
    assert len(units) == -(-length // 640)


@pytest.mark.parametrize("config", [TINY, WIDE_KERNELS, LATE_LOOK_AHEAD], ids=["nano-like", "wide", "late"])
@pytest.mark.parametrize("length", [1, 639, 2560, 20480, 30001])
def test_streamed_equals_offline(config: S2UConfig, length: int) -> None:
    model, samples = tiny(config), speech(2, length)
    offline = torch.stack(model.encode(samples))
    for seed in range(3):
        draw = random.Random(seed)
        pieces, at = [], 0
        with model.streaming(batch_size=2) as stream:
            while at < length:
                size = draw.choice([0, 1, 77, 640, 1000, 9000])
                pieces.append(stream.step(samples[:, at : at + size]))
                at += size
            pieces.append(stream.finish())
        assert torch.equal(torch.cat(pieces, dim=1), offline)


@pytest.mark.parametrize("config", [TINY, WIDE_KERNELS, LATE_LOOK_AHEAD], ids=["nano-like", "wide", "late"])
def test_units_come_as_soon_as_their_block_and_the_look_ahead_are_there(config: S2UConfig) -> None:
    model = tiny(config)
    block = model.unit_samples * config.block_units
    with model.streaming() as stream:
        assert stream.step(speech(1, block + model.look_ahead - model.config.mel.hop_length)).shape == (1, 0)
        assert stream.step(torch.zeros(1, model.config.mel.hop_length)).shape == (1, config.block_units)


def test_a_stream_keeps_a_bounded_state() -> None:
    model = tiny()
    with model.streaming() as stream:
        sizes = []
        for _ in range(12):
            stream.step(speech(1, 2560))
            assert stream.state is not None
            sizes.append([past[0].shape[2] for stage in stream.state.stages for past in stage.past if past])
    assert sizes[-1] == [16, 16, 8]
    assert stream.pending_BT.numel() == 0


def test_an_ended_stream_and_a_wrong_shape_are_refused() -> None:
    model = tiny()
    with model.streaming(2) as stream:
        with pytest.raises(InputError, match=r"\[2, T\]"):
            stream.step(torch.zeros(1, 640))
        stream.finish()
        with pytest.raises(InputError, match="ended"):
            stream.step(torch.zeros(2, 640))
    with pytest.raises(InputError, match="shape"):
        model.encode(torch.zeros(640))


def test_two_streams_do_not_mix() -> None:
    model, one, two = tiny(), speech(1, 10240), speech(1, 10241)[:, :10240]
    with model.streaming() as a, model.streaming() as b:
        units = [[a.step(one[:, :5000]), b.step(two[:, :5000])], [a.step(one[:, 5000:]), b.step(two[:, 5000:])]]
        units.append([a.finish(), b.finish()])
    for index, samples in enumerate((one, two)):
        assert torch.equal(torch.cat([pair[index] for pair in units], dim=1)[0], model.encode(samples)[0])


def test_a_row_does_not_depend_on_its_batch() -> None:
    model, samples = tiny(), speech(3, 20000)
    lengths = torch.tensor([20000, 7001, 300])
    together = model.encode(samples, lengths)
    for row, length, units in zip(samples, lengths.tolist(), together, strict=True):
        assert torch.equal(units, model.encode(row[None, :length])[0])


def test_only_what_is_said_earlier_than_the_block_ends_counts() -> None:
    model, samples = tiny(), speech(1, 20480)
    changed = samples.clone()
    changed[:, 2 * 2560 + model.look_ahead :] = 0
    before, after = model.encode(samples)[0], model.encode(changed)[0]
    assert torch.equal(before[:8], after[:8])
    assert not torch.equal(before[8:], after[8:])


def test_the_mask_is_block_causal() -> None:
    mask = block_causal_mask(6, block=2, left=1, lengths_B=None, device=torch.device("cpu"))[0, 0]
    expected = [[1, 1, 0, 0, 0, 0]] * 2 + [[1, 1, 1, 1, 0, 0]] * 2 + [[0, 0, 1, 1, 1, 1]] * 2
    assert mask.int().tolist() == expected


def test_positions_are_the_same_from_any_start() -> None:
    whole = sinusoids(torch.tensor([0]), 50, 16)
    assert torch.allclose(sinusoids(torch.tensor([30]), 20, 16), whole[:, 30:], atol=1e-5)


def test_codes_and_indices_invert_and_stay_exact_under_bfloat16() -> None:
    quantizer = FiniteScalarQuantizer([8, 8, 8, 8])
    indices = torch.arange(4096)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # A code is the middle of its level; the inverse of the bounding tanh leads back to it.
        levels = quantizer.codes(indices) * 4
        vectors = torch.atanh((levels + 0.5) / (3.5 * 1.001)) - torch.atanh(torch.tensor(0.5 / (3.5 * 1.001)))
        codes, found = quantizer(vectors)
    assert torch.equal(found, indices)
    assert torch.equal(codes, quantizer.codes(indices))
    assert torch.allclose(quantizer.bounded(vectors), levels, atol=1e-3)


def test_the_projection_is_even_in_training_and_affine_in_use() -> None:
    project = EvenProjection(8, 4, momentum=1.0)
    hidden = torch.randn(3, 50, 8) * 5 + 2
    inside = torch.arange(50)[None] < torch.tensor([50, 20, 10])[:, None]
    seen = project(hidden, inside)
    assert torch.allclose(seen[inside].mean(0), torch.zeros(4), atol=1e-5)
    assert torch.allclose(seen[inside].std(0, correction=0), torch.ones(4), atol=1e-4)
    assert torch.allclose(project.eval()(hidden), seen, atol=1e-5)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
def test_loaded_equals_saved(storage: str, tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path / "a", storage)  # type: ignore[arg-type]
    loaded = S2UTokenizer.from_pretrained(tmp_path / "a")
    loaded.save_pretrained(tmp_path / "b", storage)  # type: ignore[arg-type]
    again = S2UTokenizer.from_pretrained(tmp_path / "b")
    samples = speech(1, 16000)
    assert torch.equal(loaded.encode(samples)[0], again.encode(samples)[0])
    if storage == "float32":
        assert torch.equal(loaded.encode(samples)[0], model.encode(samples)[0])
        assert all(
            torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
        )


def test_the_phone_decoder_may_be_left_out_of_a_checkpoint(tmp_path: Path) -> None:
    from emova.core.weights import save_folder

    model = tiny()
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("phone_decoder.")}
    save_folder(tmp_path, model.config, state)
    samples = speech(1, 16000)
    assert torch.equal(S2UTokenizer.from_pretrained(tmp_path).encode(samples)[0], model.encode(samples)[0])


def test_a_config_survives_its_dictionary(tmp_path: Path) -> None:
    tiny(WIDE_KERNELS).save_pretrained(tmp_path)
    assert config_from_dict(S2UConfig, read_folder(tmp_path)[0], tmp_path) == WIDE_KERNELS


def test_phones_can_be_read_from_units() -> None:
    model = tiny()
    read = model.phones(model.encode(speech(2, 16000), torch.tensor([16000, 5000])))
    assert len(read) == 2 and all(isinstance(phone, str) for row in read for phone in row)


@pytest.mark.parametrize(("name", "encoder_millions"), [("nano", 10.7), ("paper", 83.4)])
def test_the_shipped_sizes(name: str, encoder_millions: float) -> None:
    from emova_train.s2u.program import S2UTrainConfig

    config = load_config(S2UTrainConfig, CONFIGS / f"{name}.yaml")
    with torch.device("meta"):
        model = S2UTokenizer(config.model)
    assert sum(p.numel() for p in model.encoder.parameters()) / 1e6 == pytest.approx(encoder_millions, abs=0.1)
    assert (model.unit_rate, model.codebook_size) == (25.0, 4096)
