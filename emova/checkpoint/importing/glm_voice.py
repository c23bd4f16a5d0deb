"""GLM-4-Voice's speech parts: the tokenizer, and the flow decoder with its vocoder; ours and the release's names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import yaml
from torch import Tensor

from emova.checkpoint.importing.mapping import Names, Report, count, filled, give, shape_of, take
from emova.checkpoint.importing.source import Prefixed, Tensors, section
from emova.core.errors import InputError
from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTConfig, FlowHiFTDetokenizer
from emova.speech.detokenizer.flow_hift.hift import HiFTConfig
from emova.speech.tokenizer.whisper_vq.encoder import EncoderConfig
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQConfig, WhisperVQTokenizer

TOKENIZER = "speech tokenizer"
_QKV = "{qkv}"


# --- speech to units --------------------------------------------------------------------------------------------------
def tokenizer_names(config: WhisperVQConfig) -> Names:
    """The tokenizer's tensors; names of a whole Whisper stand below ``model.encoder.``."""
    return Names(
        part=TOKENIZER,
        rename=(
            (r"^encoder\.", ""),
            (r"^positions\.", "embed_positions."),
            (r"\.attention\.qkv\.", f".self_attn.{_QKV}_proj."),
            (r"\.attention\.out\.", ".self_attn.out_proj."),
            (r"\.attention_norm\.", ".self_attn_layer_norm."),
            (r"\.ffn_norm\.", ".final_layer_norm."),
            (r"\.ffn\.0\.", ".fc1."),
            (r"\.ffn\.2\.", ".fc2."),
        ),
        joined=(_QKV, ("q", "k", "v")),
        absent=(r"self_attn\.k_proj\.bias$",),  # Whisper's keys have none
        unused=(
            (r"ema_(count|weight)$", "running means of the codebook, of training alone"),
            (r"embed_positions2\.", "positions of the layers behind the codebook"),
            (r"layer_norm\.", "the normalisation behind the last layer"),
            *(
                (rf"layers\.{index}\.", "layers behind the codebook")
                for index in range(config.encoder.layers, config.encoder.layers + 64)
            ),
        ),
    )


_EXPECTED = {
    "pooling_type": "avg",
    "encoder_causal_convolution": True,
    "encoder_causal_attention": False,
    "quantize_causal_encoder": False,
}
"""What the release's ``config.json`` says where its class can do otherwise."""


def tokenizer_config(said: Mapping[str, object], name: str) -> WhisperVQConfig:
    """Our config out of the release's ``config.json``. Raises: InputError: it lacks a field or is of another kind."""

    def number(key: str) -> int:
        value = said.get(key)
        if type(value) is not int or value < 1:
            raise InputError(f"{name}: config.json does not give {key} as a number; the release is another one")
        return value

    for key, expected in _EXPECTED.items():
        if said.get(key) != expected:
            raise InputError(
                f"{name}: {key} is {str(said.get(key))[:40]}, {expected} can be read; it is another release"
            )
    if number("pooling_position") != number("quantize_position"):
        raise InputError(f"{name}: pooling_position and quantize_position differ; it is another release")
    return WhisperVQConfig(
        encoder=EncoderConfig(
            mels=number("num_mel_bins"),
            width=number("d_model"),
            heads=number("encoder_attention_heads"),
            ffn=number("encoder_ffn_dim"),
            layers=number("quantize_position"),
            positions=number("max_source_positions"),
            block=number("quantize_causal_block_size"),
            pooling=number("pooling_kernel_size"),
            codes=number("quantize_vocab_size"),
        )
    )


def read_tokenizer(
    tensors: Tensors, said: Mapping[str, object], report: Report, running_floor: bool = False
) -> WhisperVQTokenizer:
    """The tokenizer out of the release's tensors and ``config.json``. Raises: InputError."""
    config = replace(tokenizer_config(said, tensors.name), running_floor=running_floor)
    own: Tensors | Prefixed = tensors
    prefix = "model.encoder."
    if any(name.startswith(prefix) for name in tensors):
        own = Prefixed(tensors, prefix)
        for name in tensors:
            if re.match(r"model\.decoder\.|proj_out\.", name):
                report.unused[name] = "Whisper's decoder"
            elif not name.startswith(prefix):
                raise InputError(f"{tensors.name}: tensor {name[:80]} is unknown; it is of a later release")
    module = filled(lambda: WhisperVQTokenizer(config), tokenizer_names(config), own, report)
    assert isinstance(module, WhisperVQTokenizer)
    return module


# --- units to speech --------------------------------------------------------------------------------------------------
def flow_names(config: FlowHiFTConfig) -> Names:
    """The tensors of ``flow.pt``."""
    estimator = r"^estimator\."
    stages = []
    for ours, theirs in (("down", "down_blocks"), ("middle", "mid_blocks"), ("up", "up_blocks")):
        at, to = rf"{estimator}{ours}\.(\d+)\.", rf"decoder.estimator.{theirs}.\1."
        # Where the rate changes by a convolution of stride 2 the release wraps it, where it is transposed it does too.
        stages += [
            (rf"{at}residual\.from_time\.", f"{to}0.mlp.1."),
            (rf"{at}residual\.first\.convolution\.", f"{to}0.block1.block.0."),
            (rf"{at}residual\.first\.norm\.", f"{to}0.block1.block.1."),
            (rf"{at}residual\.second\.convolution\.", f"{to}0.block2.block.0."),
            (rf"{at}residual\.second\.norm\.", f"{to}0.block2.block.1."),
            (rf"{at}residual\.beside\.", f"{to}0.res_conv."),
        ]
        inside, into = rf"{at}transformers\.(\d+)\.", rf"{to}1.\2."
        stages += [
            (rf"{inside}attention_norm\.", f"{into}norm1."),
            (rf"{inside}query\.", f"{into}attn1.to_q."),
            (rf"{inside}key\.", f"{into}attn1.to_k."),
            (rf"{inside}value\.", f"{into}attn1.to_v."),
            (rf"{inside}leave\.", f"{into}attn1.to_out.0."),
            (rf"{inside}ffn_norm\.", f"{into}norm3."),
            (rf"{inside}widen\.", f"{into}ff.net.0.proj."),
            (rf"{inside}narrow\.", f"{into}ff.net.2."),
            (rf"{estimator}{ours}\.0\.resample\.", f"decoder.estimator.{theirs}.0.2.conv."),
            (rf"{at}resample\.", f"{to}2."),
        ]
    layer = r"^encoder\.layers\.(\d+)\."
    regulator = [
        (rf"^regulator\.{ours}\.{index}\.", f"length_regulator.model.{3 * index + offset}.")
        for index in range(4)
        for ours, offset in (("convolutions", 0), ("norms", 1))
    ]
    return Names(
        part="flow",
        rename=(
            (r"^speaker\.", "spk_embed_affine_layer."),
            (r"^encoder\.embedding\.", "input_embedding."),
            (r"^encoder\.enter\.", "encoder.embed.out.0."),
            (r"^encoder\.enter_norm\.", "encoder.embed.out.1."),
            (r"^encoder\.norm\.", "encoder.after_norm."),
            (r"^encoder\.leave\.", "encoder_proj."),
            (rf"{layer}attention\.query\.", r"encoder.encoders.\1.self_attn.linear_q."),
            (rf"{layer}attention\.key\.", r"encoder.encoders.\1.self_attn.linear_k."),
            (rf"{layer}attention\.value\.", r"encoder.encoders.\1.self_attn.linear_v."),
            (rf"{layer}attention\.leave\.", r"encoder.encoders.\1.self_attn.linear_out."),
            (rf"{layer}attention\.distance\.", r"encoder.encoders.\1.self_attn.linear_pos."),
            (rf"{layer}attention\.content_bias$", r"encoder.encoders.\1.self_attn.pos_bias_u"),
            (rf"{layer}attention\.distance_bias$", r"encoder.encoders.\1.self_attn.pos_bias_v"),
            (rf"{layer}attention_norm\.", r"encoder.encoders.\1.norm_mha."),
            (rf"{layer}ffn_norm\.", r"encoder.encoders.\1.norm_ff."),
            (rf"{layer}widen\.", r"encoder.encoders.\1.feed_forward.w_1."),
            (rf"{layer}narrow\.", r"encoder.encoders.\1.feed_forward.w_2."),
            *regulator,
            (r"^regulator\.leave\.", "length_regulator.model.12."),
            *stages,
            (rf"{estimator}time_enter\.", "decoder.estimator.time_mlp.linear_1."),
            (rf"{estimator}time_leave\.", "decoder.estimator.time_mlp.linear_2."),
            (rf"{estimator}last\.convolution\.", "decoder.estimator.final_block.block.0."),
            (rf"{estimator}last\.norm\.", "decoder.estimator.final_block.block.1."),
            (rf"{estimator}leave\.", "decoder.estimator.final_proj."),
        ),
    )


def vocoder_names(config: HiFTConfig) -> Names:
    """The tensors of ``hift.pt``."""
    kernels = len(config.kernels)
    units = [
        (rf"^units\.{stage}\.{kernel}\.", f"resblocks.{kernels * stage + kernel}.")
        for stage in range(len(config.rates))
        for kernel in range(kernels)
    ]
    return Names(
        part="vocoder",
        rename=(
            (r"^pitch\.convolutions\.(\d+)\.", lambda match: f"f0_predictor.condnet.{2 * int(match[1])}."),
            (r"^pitch\.leave\.", "f0_predictor.classifier."),
            (r"^mix\.", "m_source.l_linear."),
            (r"^enter\.", "conv_pre."),
            (r"^leave\.", "conv_post."),
            (r"^upsamplers\.", "ups."),
            (r"^from_source\.", "source_downs."),
            (r"^source_units\.", "source_resblocks."),
            *units,
            (r"\.dilated\.", ".convs1."),
            (r"\.plain\.", ".convs2."),
            (r"\.before\.", ".activations1."),
            (r"\.between\.", ".activations2."),
        ),
        normed=((r"^(enter|leave|upsamplers\..*|units\..*|source_units\..*|pitch\.convolutions\..*)\.weight$", 0),),
    )


def decoder_config(
    flow: Tensors, vocoder: Tensors, said: Mapping[str, object], chunks: Sequence[int] | None = None
) -> FlowHiFTConfig:
    """The decoder's config by its tensors' shapes; what they do not tell is read of ``config.yaml``, or the release's.

    Raises:
        InputError: a tensor that shapes are told from is missing.
    """
    wanted = FlowHiFTConfig()
    codes, width = shape_of(flow, r"input_embedding\.weight")
    inner, channels = shape_of(flow, r"decoder\.estimator\.down_blocks\.0\.1\.0\.attn1\.to_q\.weight")
    estimator = section(said, "estimator")
    head_width = _number(estimator, "attention_head_dim", wanted.estimator.head_width)
    encoder = section(said, "encoder")
    pre = shape_of(vocoder, r"conv_pre\.(weight_v|parametrizations\.weight\.original1|weight)")
    mels, speaker_size = shape_of(flow, r"spk_embed_affine_layer\.weight")
    if pre[1] != mels:
        raise InputError(f"{flow.name}: the flow has {mels} mel bins, the vocoder {pre[1]}; they are of two releases")
    return replace(
        wanted,
        speaker_size=speaker_size,
        units=replace(
            wanted.units,
            codes=codes,
            width=width,
            heads=shape_of(flow, r"encoder\.encoders\.0\.self_attn\.pos_bias_u")[0],
            ffn=shape_of(flow, r"encoder\.encoders\.0\.feed_forward\.w_1\.weight")[0],
            layers=count(flow, r"encoder\.encoders\.(\d+)\."),
            block=_number(encoder, "block_size", wanted.units.block),
        ),
        estimator=replace(
            wanted.estimator,
            channels=channels,
            head_width=head_width,
            heads=max(1, inner // head_width),
            blocks=count(flow, r"decoder\.estimator\.down_blocks\.0\.1\.(\d+)\."),
            middle=count(flow, r"decoder\.estimator\.mid_blocks\.(\d+)\."),
        ),
        vocoder=replace(
            wanted.vocoder,
            mels=mels,
            channels=pre[0],
            pitch_channels=shape_of(vocoder, r"f0_predictor\.classifier\.weight")[1],
        ),
        chunks=wanted.chunks if chunks is None else list(chunks),
    )


def _number(said: Mapping[str, object], key: str, usual: int) -> int:
    value = said.get(key, usual) if isinstance(said, Mapping) else usual
    return value if type(value) is int and 0 < value < 1 << 16 else usual


def read_decoder(
    flow: Tensors, vocoder: Tensors, said: Mapping[str, object], report: Report, chunks: Sequence[int] | None = None
) -> FlowHiFTDetokenizer:
    """The decoder out of the tensors of its two files. Raises: InputError."""
    config = decoder_config(flow, vocoder, said, chunks)
    with torch.device("meta"):
        module = FlowHiFTDetokenizer(config)
    module.flow.load_state_dict(take(flow_names(config), module.flow, flow, report), assign=True)
    names = vocoder_names(config.vocoder)
    module.vocoder.load_state_dict(take(names, module.vocoder, vocoder, report), assign=True)
    return module.eval()


# --- and back ---------------------------------------------------------------------------------------------------------
def write_tokenizer(ears: WhisperVQTokenizer) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tokenizer's tensors and configuration as the release has them, without what was not used."""
    config = ears.config.encoder
    said = {
        "model_type": "whisper",
        **_EXPECTED,
        "num_mel_bins": config.mels,
        "d_model": config.width,
        "encoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.ffn,
        "max_source_positions": config.positions,
        "quantize_position": config.layers,
        "pooling_position": config.layers,
        "pooling_kernel_size": config.pooling,
        "quantize_vocab_size": config.codes,
        "quantize_causal_block_size": config.block,
    }
    return give(tokenizer_names(ears.config), ears.state_dict()), said


def write_decoder(voice: FlowHiFTDetokenizer) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """The decoder's two files of tensors, and the numbers that their shapes do not tell as YAML."""
    config = voice.config
    said = {
        "flow": {
            "encoder": {"block_size": config.units.block},
            "decoder": {"estimator": {"attention_head_dim": config.estimator.head_width}},
        }
    }
    flow = give(flow_names(config), voice.flow.state_dict())
    return flow, give(vocoder_names(config.vocoder), voice.vocoder.state_dict()), yaml.safe_dump(said)
