"""Laws of the unit-to-speech detokenizer, on tiny untrained parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.native.compiled import CONVOLUTION
from emova.speech.detokenizer.flow import Flow, FlowConfig
from emova.speech.detokenizer.layers import BoundedConv, ConvBlock, Past, Pointwise
from emova.speech.detokenizer.protocol import SpeechDetokenizer, SpeechStream
from emova.speech.detokenizer.source import frame_phases, pulse_train
from emova.speech.detokenizer.style_encoder import StyleEncoderConfig
from emova.speech.detokenizer.u2s import U2SConfig, U2SDetokenizer
from emova.speech.detokenizer.unit_encoder import UnitEmbedding, UnitEncoderConfig
from emova.speech.detokenizer.vits import PitchConfig, VITSConfig
from emova.speech.detokenizer.waveform_heads import (
    Excitation,
    HiFiGANHeadConfig,
    ISTFTHead,
    ISTFTHeadConfig,
    WaveformHeadConfig,
    centred_stft,
    overlap_add,
)


def tiny_config(kind: str = "istft", pitch: bool = True) -> U2SConfig:
    units = UnitEncoderConfig(
        codebook_size=64, levels=(8, 8), digit_channels=4, channels=16, widening=2.0, unit_dilations=(1, 2),
        unit_lookahead=(2, 0), frame_dilations=(1,), frame_lookahead=(1,),
    )  # fmt: skip
    head = WaveformHeadConfig(
        kind,
        ISTFTHeadConfig(channels=16, lookahead=(1, 0)),
        HiFiGANHeadConfig(channels=16, kernels=(3,), dilations=(1,)),
    )
    vits = VITSConfig(
        latent_channels=8, units=units, flow=FlowConfig(layers=2, channels=8, kernel=3, lookahead=1), head=head,
        pitch=PitchConfig(enabled=pitch, hidden=16, dilations=(1,), lookahead=(1,)),
    )  # fmt: skip
    return U2SConfig(vits, StyleEncoderConfig(style_size=8, channels=8, n_mels=16))


def voice_all(detokenizer: U2SDetokenizer, bias: float) -> None:
    """Let every frame be voiced (a large ``bias``) or none (a very small one)."""
    pitch = detokenizer.vits.pitch
    assert pitch is not None and pitch.leave.bias is not None
    pitch.leave.bias.data = torch.tensor([0.0, bias])


def make(kind: str = "istft", pitch: bool = True) -> U2SDetokenizer:
    """A detokenizer whose zero-initialised layers have been stirred, so that every path counts."""
    torch.manual_seed(0)
    detokenizer = U2SDetokenizer(tiny_config(kind, pitch)).eval()
    with torch.no_grad():
        for parameter in detokenizer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if isinstance(head := detokenizer.vits.head, ISTFTHead):
            assert head.leave.bias is not None
            head.leave.bias[: head.bins] = -2.0
    return detokenizer


def inputs(batch: int = 2, units: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 64, (batch, units), generator=generator), torch.randn(batch, 8, generator=generator)


@pytest.fixture()
def without_compiled() -> Iterator[None]:
    with CONVOLUTION.off():
        yield


# As padded rows are computed: pulses amplify rounding.
torch_only = pytest.mark.usefixtures("without_compiled")


@pytest.fixture(params=["torch", "compiled"])
def way(request) -> Iterator[str]:
    """Who computes the convolutions."""
    if CONVOLUTION.prepare() is None and request.param == "compiled":
        pytest.skip("no C compiler")
    with CONVOLUTION.off() if request.param == "torch" else nullcontext():
        yield request.param


def test_shapes_and_protocol() -> None:
    detokenizer = make()
    assert isinstance(detokenizer, SpeechDetokenizer) and isinstance(detokenizer.streaming(inputs()[1]), SpeechStream)
    assert (detokenizer.sample_rate, detokenizer.unit_rate, detokenizer.style_size) == (24000, 25.0, 8)
    units, style = inputs()
    assert detokenizer.decode(units, style).shape == (2, 40 * 960)
    assert detokenizer.decode(units[:, :0], style).shape == (2, 0)
    assert detokenizer.decode(units[:, :1], style).shape == (2, 960)
    assert detokenizer.embed_style(torch.randn(2, 5000), torch.tensor([5000, 3000])).shape == (2, 8)


@pytest.mark.parametrize("kind", ["istft", "hifigan"])
@pytest.mark.parametrize("pitch", [True, False])
def test_streamed_equals_offline(kind: str, pitch: bool, way: str) -> None:
    detokenizer = make(kind, pitch)
    units, style = inputs(batch=1, units=60)
    offline = detokenizer.decode(units, style, temperature=0.7)
    level = offline.square().mean().sqrt()
    assert level > 1e-4
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        stream = detokenizer.streaming(style, temperature=0.7)
        pieces, start = [], 0
        while start < units.shape[1]:
            size = int(torch.randint(0, 12, (1,), generator=generator))
            if start + size >= units.shape[1] and seed == 1:  # the last units may come with the end
                break
            pieces.append(stream.step(units[:, start : start + size]))
            start += size
            sure = max(0, min(start, 60) - detokenizer.lookahead_units) * 960
            assert sure <= sum(piece.shape[1] for piece in pieces) <= min(start, 60) * 960
        pieces.append(stream.finish(units[:, start:] if start < units.shape[1] else None))
        streamed = torch.cat(pieces, dim=1)
        assert streamed.shape == offline.shape
        # Rounding in F0 adds up along a voiced stretch and shows at the highest harmonics only.
        error = streamed - offline
        assert error.square().mean().sqrt() < 1e-3 * level and error.abs().max() < 1e-2 * level


@torch_only
@pytest.mark.parametrize("cuts", [(1, 2, 27), (30,), (7, 8, 9, 6)])
def test_silence_around_the_units_is_heard_by_the_voice_alone(cuts: tuple[int, ...]) -> None:
    """Whole, streamed and in a padded batch: what the units sound like between silence, cut out."""
    detokenizer, (units, style) = make(), inputs()
    quiet = torch.full((1, 9), 5)
    around = torch.cat([quiet[:, :3], units[:1, :30], quiet[:, :2]], dim=1)
    wanted = detokenizer.decode(around, style[:1])[:, 3 * 960 : 33 * 960]
    plain = detokenizer.decode(units[:1, :30], style[:1])
    detokenizer.config = replace(detokenizer.config, silence=5, lead_in=3, lead_out=2)
    assert torch.equal(detokenizer.decode(units[:1, :30], style[:1]), wanted)
    assert wanted.shape == plain.shape and not torch.allclose(wanted, plain, atol=1e-2)
    stream, pieces = detokenizer.streaming(style[:1]), []
    for piece in units[:1, :30].split(cuts, dim=1):
        pieces.append(stream.step(piece))
    pieces.append(stream.finish())
    assert torch.allclose(torch.cat(pieces, dim=1), wanted, atol=1e-3)
    rows = detokenizer.decode(units.flip(0), style.flip(0), lengths_B=torch.tensor([40, 30]))
    assert torch.allclose(rows[1:, : 30 * 960], wanted, atol=1e-3) and not rows[1:, 30 * 960 :].any()
    assert detokenizer.streaming(style[:1]).finish().shape == (1, 0)


def test_silence_must_be_a_unit() -> None:
    with pytest.raises(InputError, match="silence=64"):
        replace(tiny_config(), silence=64)
    with pytest.raises(InputError, match="lead_in"):
        replace(tiny_config(), lead_in=-1)


def test_no_click_between_chunks() -> None:
    """The level step at chunk boundaries is not larger than elsewhere."""
    detokenizer = make()
    voice_all(detokenizer, -9.0)  # noise only: every sample is like any other
    units, style = inputs(batch=1, units=150)
    stream = detokenizer.streaming(style)
    pieces = [stream.step(units[:, at : at + 1]) for at in range(150)] + [stream.finish()]
    steps = torch.cat(pieces, dim=1)[0].diff().abs()
    bounds = torch.tensor([piece.shape[1] for piece in pieces if piece.shape[1]]).cumsum(0)[:-1] - 1
    assert len(bounds) > 100
    assert steps[bounds].mean() < 1.2 * steps.mean()


def test_stream_state_stays_bounded() -> None:
    detokenizer = make()
    units, style = inputs(batch=1, units=40)
    stream = detokenizer.streaming(style)
    sizes = []
    for _ in range(6):
        stream.step(units)
        sizes.append(stream.past.size)
    assert sizes[0] == sizes[-1] < 40_000


def test_a_stream_computes_every_frame_once() -> None:
    detokenizer = make()
    units, style = inputs(batch=1, units=40)
    vits = detokenizer.vits
    frames: dict[str, list[int]] = {}
    for name, layer in (
        ("prior", vits.unit_encoder.to_prior),
        ("flow", vits.flow.couplings[0].leave),
        ("head", vits.head.leave),
    ):
        assert isinstance(layer, torch.nn.Module)
        layer.register_forward_hook(lambda _, __, out, name=name: frames.setdefault(name, []).append(out.shape[-1]))
    stream = detokenizer.streaming(style)
    for chunk in units.split(3, dim=1):
        stream.step(chunk)
    stream.finish()
    assert all(len(counts) > 10 and sum(counts) == 160 for counts in frames.values()) and len(frames) == 3


@torch_only
def test_rows_do_not_see_each_other_or_the_padding() -> None:
    detokenizer = make()
    units, style = inputs()
    alone = detokenizer.decode(units[1:, :25], style[1:])
    together = detokenizer.decode(units, style, lengths_B=torch.tensor([40, 25]))
    assert torch.allclose(together[1:, : 25 * 960], alone, atol=1e-3)
    assert not together[1:, 25 * 960 :].any()


@pytest.mark.parametrize("frames", [1, 7, 8, 16, 33, 100])
def test_compiled_convolutions_equal_torchs(frames: int) -> None:
    if CONVOLUTION.prepare() is None:
        pytest.skip("no C compiler")
    torch.manual_seed(frames)
    x_BCF, style_BS = 3 * torch.randn(2, 21, frames), torch.randn(2, 8)
    turned_BCF = x_BCF.transpose(1, 2).contiguous().transpose(1, 2)  # the same numbers, channels side by side
    adaptive = ConvBlock(21, 50, 7, lookahead=1, style_size=8, scale=2.0)
    plain, wide = ConvBlock(21, 9, 5, dilation=2), BoundedConv(21, 13, 3, dilation=4, lookahead=0)
    pointwise = Pointwise(21, 40)

    @torch.no_grad()
    def made() -> list[torch.Tensor]:
        return [adaptive(x_BCF, style_BS), plain(x_BCF), wide(x_BCF), pointwise(x_BCF), pointwise(turned_BCF)]

    with CONVOLUTION.off():
        expected = made()
    for mine, torchs in zip(made(), expected, strict=True):
        assert torch.allclose(mine, torchs, atol=2e-5)
    assert not torch.equal(torch.cat([x.flatten() for x in made()]), torch.cat([x.flatten() for x in expected]))


@pytest.mark.parametrize("threads", [1, 3])
def test_compiled_convolutions_give_the_same_bits_however_they_are_cut(threads: int) -> None:
    if CONVOLUTION.prepare() is None:
        pytest.skip("no C compiler")
    torch.manual_seed(0)
    block, x_BCF = ConvBlock(21, 50, 7, dilation=2), torch.randn(1, 21, 90)
    before = torch.get_num_threads()
    try:
        with torch.no_grad():
            torch.set_num_threads(2)
            whole = block(x_BCF)
            torch.set_num_threads(threads)
            past, pieces = Past(), []
            for size, piece in enumerate(x_BCF.split([1, 40, 7, 30, 12], dim=2)):
                past.ending = size == 4
                pieces.append(block(piece, past=past))
        assert torch.equal(torch.cat(pieces, dim=2), whole)
    finally:
        torch.set_num_threads(before)


def test_not_a_number_stays_one() -> None:
    with torch.no_grad():
        assert ConvBlock(4, 8, 3)(torch.full((1, 4, 6), torch.nan)).isnan().all()


def test_save_and_load_are_bit_equal(tmp_path) -> None:
    detokenizer = make()
    units, style = inputs()
    detokenizer.save_pretrained(tmp_path / "full", storage="float32")
    loaded = U2SDetokenizer.from_pretrained(tmp_path / "full")
    assert torch.equal(loaded.decode(units, style), detokenizer.decode(units, style))
    detokenizer.save_pretrained(tmp_path / "half")
    rounded = U2SDetokenizer.from_pretrained(tmp_path / "half")
    rounded.save_pretrained(tmp_path / "again")
    loaded = U2SDetokenizer.from_pretrained(tmp_path / "again")
    assert torch.equal(loaded.decode(units, style), rounded.decode(units, style))
    (tmp_path / "half" / "model.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="half"):
        U2SDetokenizer.from_pretrained(tmp_path / "half")


def test_flow_inverts() -> None:
    torch.manual_seed(0)
    flow = Flow(8, FlowConfig(layers=4, channels=8), style_size=4)
    for parameter in flow.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    z, style = torch.randn(2, 8, 30), torch.randn(2, 4)
    moved = flow(z, style)
    assert (moved - z).abs().mean() > 0.05
    assert torch.allclose(flow.inverse(moved, style), z, atol=1e-5)


def test_style_changes_the_sound() -> None:
    detokenizer = make()
    units, style = inputs()
    first, second = detokenizer.decode(units, style), detokenizer.decode(units, style.flip(0))
    assert (first - second).abs().max() > 1e-3


def test_digits_and_table() -> None:
    embedding = UnitEmbedding(UnitEncoderConfig())
    units = torch.tensor([[0, 7, 8, 4095, 1 + 2 * 8 + 3 * 64 + 4 * 512]])
    assert embedding.digits_of(units)[0].tolist() == [[0] * 4, [7, 0, 0, 0], [0, 1, 0, 0], [7] * 4, [1, 2, 3, 4]]
    table = UnitEmbedding(UnitEncoderConfig(codebook_size=1000, levels=(), table=True, channels=6))
    assert table(units.clamp(max=999)).shape == (1, 6, 5)


def share_at_harmonics(samples: torch.Tensor, f0: float) -> float:
    """How much of the energy below 2 kHz lies within 10 Hz of a multiple of ``f0``."""
    power = torch.fft.rfft(samples * torch.hann_window(len(samples))).abs().square()
    hertz = torch.arange(len(power)) * 24000 / len(samples)
    near = (hertz / f0 - (hertz / f0).round()).abs() * f0 < 10
    low = hertz < 2000
    return float(power[near & low & (hertz > 20)].sum() / power[low].sum())


@pytest.mark.parametrize("f0", [80.0, 140.0, 333.0])
def test_pulse_train_has_the_asked_pitch(f0: float) -> None:
    frames = torch.full((1, 50), f0)
    voiced = torch.ones(1, 50, dtype=torch.bool)
    phase = frame_phases(frames, voiced, torch.zeros(1), 24000, 240)
    pulses = pulse_train(frames, voiced, phase, 24000, 240)[0]
    assert pulses.square().mean().sqrt() == pytest.approx(1.0, rel=0.1)
    assert share_at_harmonics(pulses[1200:10800], f0) > 0.98
    assert share_at_harmonics(pulses[1200:10800], f0 * 1.1) < 0.6
    assert not pulse_train(frames, ~voiced, phase, 24000, 240).any()


def test_pulse_train_is_smooth_over_frames() -> None:
    """A gliding pitch gives the same train whether the phase is carried frame by frame or summed sample by sample."""
    f0 = torch.linspace(100, 200, 40)[None]
    voiced = torch.ones(1, 40, dtype=torch.bool)
    pulses = pulse_train(f0, voiced, frame_phases(f0, voiced, torch.zeros(1), 24000, 240), 24000, 240)[0]
    positions = (torch.arange(9600, dtype=torch.float64) - 120) / 240
    exact = torch.from_numpy(__import__("numpy").interp(positions.numpy(), range(40), f0[0].double().numpy()))
    phase = (exact / 24000).cumsum(0)
    phase = phase - phase[120]
    expected = torch.cos(2 * torch.pi * torch.arange(1, 40)[:, None] * phase).sum(0)
    kept = torch.fft.rfft(pulses.double()).abs()[100:700], torch.fft.rfft(expected).abs()[100:700]
    assert torch.corrcoef(torch.stack(kept))[0, 1] > 0.95


def test_pitch_scale_scales_the_drive() -> None:
    detokenizer = make()
    units, style = inputs(batch=1)
    voice_all(detokenizer, 9.0)
    streams = [detokenizer.streaming(style, pitch_scale=scale) for scale in (1.0, 1.5)]
    for stream in streams:
        stream.step(units)
    slow, fast = (stream.pitch for stream in streams)
    assert slow is not None and fast is not None and torch.allclose(fast.f0_B1, 1.5 * slow.f0_B1)
    with pytest.raises(InputError, match="pitch scale"):
        detokenizer.streaming(style, pitch_scale=0.0)


def test_foreign_units_are_refused() -> None:
    with pytest.raises(InputError, match="another tokenizer"):
        make().decode(torch.tensor([[64]]), torch.zeros(1, 8))


def test_stft_and_overlap_add_invert() -> None:
    samples, window = torch.randn(1, 2400), torch.hann_window(960)
    frames = torch.fft.irfft(centred_stft(samples, window, 240), n=960, dim=1) * window[:, None]
    weight = overlap_add(window.square()[None, :, None].expand(1, -1, 10), 240)
    assert torch.allclose(overlap_add(frames, 240) / weight, samples, atol=1e-4)


def test_shipped_sizes() -> None:
    """The nano decoder is small; the paper's sizes build on the meta device."""
    from emova_train.u2s.config import U2SRecipe

    nano = load_config(U2SRecipe, "configs/u2s/nano.yaml").model
    with torch.device("meta"):
        speaker = U2SDetokenizer(nano)
    assert sum(parameter.numel() for parameter in speaker.parameters()) < 4.2e6
    assert speaker.lookahead_units <= 10
    paper = load_config(U2SRecipe, "configs/u2s/paper-pretrain.yaml").model
    assert (paper.vits.latent_channels, paper.vits.head.kind, paper.vits.head.hifigan.channels) == (192, "hifigan", 512)
    with torch.device("meta"):
        speaker = U2SDetokenizer(paper)
        drive = Excitation(torch.zeros(1, 2, 12), torch.zeros(1, 12 * 240), torch.zeros(1, 12 * 240))
        sound = speaker.vits.head(torch.zeros(1, 192, 12), torch.zeros(1, 256), drive)
    assert sound.shape == (1, 12 * 240)
    assert 25e6 < sum(parameter.numel() for parameter in speaker.parameters()) < 45e6
    assert replace(nano, temperature=0.1).temperature == 0.1
