"""A tiny one of every kind of tokenizer and detokenizer, in each way that it can work. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from emova.speech.detokenizer.emova_u2s.detokenizer import EmovaU2SConfig, EmovaU2SDetokenizer
from emova.speech.detokenizer.emova_u2s.durations import DurationConfig
from emova.speech.detokenizer.emova_u2s.prior import PriorConfig
from emova.speech.detokenizer.emova_u2s.reference import ReferenceConfig
from emova.speech.detokenizer.flow import FlowConfig
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTConfig, FlowHiFTDetokenizer
from emova.speech.detokenizer.flow_hift.estimator import EstimatorConfig
from emova.speech.detokenizer.flow_hift.harmonic import HarmonicConfig
from emova.speech.detokenizer.flow_hift.hift import HiFTConfig
from emova.speech.detokenizer.flow_hift.unit_encoder import UnitEncoderConfig
from emova.speech.detokenizer.style_encoder import StyleEncoderConfig
from emova.speech.detokenizer.waveform_heads import HiFiGANHeadConfig, ISTFTHeadConfig, WaveformHeadConfig
from emova.speech.features import MelConfig
from emova.speech.tokenizer.emova_s2u.encoder import ConvConfig, StageConfig
from emova.speech.tokenizer.emova_s2u.features import FeatureConfig
from emova.speech.tokenizer.emova_s2u.tokenizer import EmovaS2UConfig, EmovaS2UTokenizer
from emova.speech.tokenizer.kmeans import KMeansConfig, KMeansTokenizer
from emova.speech.tokenizer.phone_decoder import PhoneDecoderConfig
from emova.speech.tokenizer.whisper_vq.encoder import EncoderConfig
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQConfig, WhisperVQTokenizer
from tests.fixtures_speech import make_speech_detokenizer, make_speech_tokenizer

VQ = WhisperVQConfig(
    encoder=EncoderConfig(
        mels=80, width=16, heads=2, ffn=32, layers=2, positions=400, block=16, left_blocks=2, pooling=4, codes=64
    ),
    running_floor=True, reads_phones=True, decoder=PhoneDecoderConfig(width=8, layers=1, heads=1, ffn=8),
)  # fmt: skip
FLOW = FlowHiFTConfig(
    unit_rate=12.5, speaker_size=8, hears_styles=True, style=StyleEncoderConfig(style_size=8, channels=8, n_mels=16),
    units=UnitEncoderConfig(codes=64, width=16, heads=2, ffn=32, layers=1, block=2),
    estimator=EstimatorConfig(channels=16, heads=2, head_width=8, blocks=1, middle=1, groups=2),
    mel=MelConfig(24_000, 960, 240, 16, 0.0, 12_000.0, -7.0, 4.5, 0.45), sound="istft",
    head=WaveformHeadConfig(istft=ISTFTHeadConfig(channels=16, lookahead=(1, 0))),
    steps=2, guidance=0.5, chunks=[4], context=6, fade=1,
)  # fmt: skip
HIFT = HiFTConfig(
    mels=16, sample_rate=24_000, channels=16, rates=(6, 5), rate_kernels=(12, 11), n_fft=16, short_hop=8, harmonics=2,
    pitch_channels=8, kernels=(3,), source_kernels=(3, 3), dilations=(1,),
)  # fmt: skip
S2U = EmovaS2UConfig(
    features=FeatureConfig(mels=32),
    stages=[
        StageConfig([ConvConfig(16, 5, 2), ConvConfig(16, 5, 2)], 1, 2, 32, position_kernel=8, position_groups=4),
        StageConfig([ConvConfig(16, 1, active=False)], 1, 2, 32, position_kernel=8, position_groups=4),
    ],
    block_units=8, left_units=10, right_units=3,
)  # fmt: skip
U2S = EmovaU2SConfig(
    style_size=8, latent_channels=8,
    prior=PriorConfig(rows=74, first_unit=10, channels=16, ffn=32, heads=2, layers=1),
    durations=DurationConfig(channels=16, depth=1, flows=1), flow=FlowConfig(2, 8, 5, 1, None),
    head=HiFiGANHeadConfig(channels=32, rates=(8, 8, 2, 2), kernels=(3,), dilations=(1,), last_slope=0.01),
    reference=ReferenceConfig(channels=16), block_units=4, left_units=6, right_units=2,
)  # fmt: skip


def make_kmeans() -> KMeansTokenizer:
    """Centres at random, as a training would not leave them at zero."""
    ears = KMeansTokenizer(KMeansConfig(dimensions=8, clusters=32))
    ears.projection.normal_(std=0.1)
    ears.centres.normal_()
    return ears


def make_vq(config: WhisperVQConfig) -> WhisperVQTokenizer:
    """Codes spread as wide as the vectors, so that units vary; where there are more codes, some are alike."""
    ears = WhisperVQTokenizer(config)
    with torch.no_grad():
        vectors = ears(torch.randn(4, 40_000) * 0.1, torch.full((4,), 40_000)).flatten(0, 1)
        codes = config.encoder.codes
        ears.encoder.codebook.weight.copy_(vectors[torch.randperm(max(len(vectors), codes))[:codes] % len(vectors)])
    return ears


def make_vq_and_flow(codes: int) -> tuple[WhisperVQTokenizer, FlowHiFTDetokenizer]:
    """A codec of 12.5 of ``codes`` units a second, whose streams are bounded."""
    torch.manual_seed(0)
    ears = make_vq(replace(VQ, encoder=replace(VQ.encoder, codes=codes)))
    return ears.eval(), FlowHiFTDetokenizer(replace(FLOW, units=replace(FLOW.units, codes=codes))).eval()


EARS: dict[str, Callable[[], nn.Module]] = {
    "s2u": make_speech_tokenizer,
    "kmeans": make_kmeans,
    "emova_s2u": lambda: EmovaS2UTokenizer(S2U),
    "emova_s2u whole": lambda: EmovaS2UTokenizer(replace(S2U, block_units=0)),
    "whisper_vq": lambda: make_vq(VQ),
    "whisper_vq all of the clip": lambda: make_vq(replace(VQ, encoder=replace(VQ.encoder, left_blocks=0))),
    "whisper_vq whole": lambda: make_vq(replace(VQ, running_floor=False)),
    "whisper_vq 50 Hz": lambda: make_vq(replace(VQ, encoder=replace(VQ.encoder, pooling=1))),
    # As with Whisper's 1,500 positions, not all of them make whole units.
    "whisper_vq 6.25 Hz": lambda: make_vq(
        replace(VQ, encoder=replace(VQ.encoder, pooling=8, positions=404, codes=32))  # fmt: skip
    ),
}
VOICES: dict[str, Callable[[], nn.Module]] = {
    "u2s": make_speech_detokenizer,
    "emova_u2s": lambda: EmovaU2SDetokenizer(U2S),
    "flow_hift": lambda: FlowHiFTDetokenizer(replace(FLOW, sound="hift", vocoder=HIFT, context=0, chunks=[4, 6])),
    "flow_hift whole": lambda: FlowHiFTDetokenizer(replace(FLOW, chunks=[], context=0)),
    "flow_hift bounded": lambda: FlowHiFTDetokenizer(FLOW),
    "flow_hift bounded, styled units": lambda: FlowHiFTDetokenizer(replace(FLOW, styled_units=True)),
    "flow_hift bounded, harmonics and noise": lambda: FlowHiFTDetokenizer(
        replace(FLOW, sound="harmonic", harmonic=HarmonicConfig(8, 1, 20, 8, mels=16))
    ),
    "flow_hift bounded, its own vocoder": lambda: FlowHiFTDetokenizer(replace(FLOW, sound="hift", vocoder=HIFT)),
    "flow_hift bounded, hifigan": lambda: FlowHiFTDetokenizer(
        replace(
            FLOW,
            sound="hifigan",
            guidance=0.0,
            head=WaveformHeadConfig("hifigan", hifigan=HiFiGANHeadConfig(16, (10, 6, 2, 2), (3,), (1,))),
        )  # fmt: skip
    ),
}
