"""The EMOVA release's speech tokenizer (its S2U, its U2S and the table of styles) and our two speech parts.

The names are those of ``Emova-ollm/emova_speech_tokenizer_hf``: one file with the children ``encoder`` (S2U),
``decoder`` (U2S) and ``style_embedding``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from emova.checkpoint.importing.mapping import PARTIAL, Names, Report, count, filled, give, shape_of
from emova.checkpoint.importing.source import Prefixed, Tensors
from emova.core.errors import InputError
from emova.core.io import shown
from emova.speech.detokenizer.emova_u2s.detokenizer import EmovaU2SConfig, EmovaU2SDetokenizer
from emova.speech.detokenizer.flow import FlowConfig
from emova.speech.style import RELEASED_STYLES, Style, StylePrototypes
from emova.speech.tokenizer.emova_s2u.encoder import ConvConfig, StageConfig
from emova.speech.tokenizer.emova_s2u.tokenizer import EmovaS2UConfig, EmovaS2UTokenizer

S2U, U2S, STYLES = "speech tokenizer", "speech detokenizer", "style table"
_SPEEDS = ("fast", "normal", "slow")


# --- speech to units --------------------------------------------------------------------------------------------------
def s2u_names(config: EmovaS2UConfig) -> Names:
    """The tokenizer's tensors, below ``encoder.``."""
    rename, index = [(r"^features\.window$", "encoder.wav2spec.featurizer.window")], 0
    rename.append((r"^features\.filters$", "encoder.wav2spec.featurizer.fb"))
    blocks = "encoder.feature_encoder.block_modules"
    for number, stage in enumerate(config.stages):
        ours = rf"^encoder\.stages\.{number}\."
        for place in range(len(stage.convolutions)):
            rename.append((rf"{ours}convolutions\.{place}\.conv\.", f"{blocks}.{index}.conv.conv."))
            rename.append((rf"{ours}convolutions\.{place}\.norm\.", f"{blocks}.{index}.norm."))
            index += 1
        rename.append((rf"{ours}transformer\.positions\.", f"{blocks}.{index}.pos_conv.0."))
        rename.append((rf"{ours}transformer\.", f"{blocks}.{index}."))
        index += 1
    return Names(
        part=S2U,
        rename=tuple(rename),
        normed=((r"transformer\.positions\.weight$", 2),),
        forms=((r"^features\.filters$", "batch"),),
        unused=(
            (r"decoder\.(conv_layers|decoder_layers)\.", "the phone head that trained the units"),
            (r"encoder\.mask_emb$", "what masked frames were replaced by in training"),
            (r"quantizer\._(levels_np|basis)$", "constants of the quantiser, checked"),
            (r"quantizer\.codebook_size$", "constants of the quantiser, checked"),
        ),
    )


def s2u_config(tensors: Tensors | Prefixed) -> EmovaS2UConfig:
    """The tokenizer's config by its tensors' shapes; strides and heads of 64 channels are the release's.

    Raises:
        InputError: the blocks are none that can be told.
    """
    wanted = EmovaS2UConfig()
    blocks = r"encoder\.feature_encoder\.block_modules"
    stages: list[StageConfig] = []
    index = 0
    for released in wanted.stages:
        convolutions: list[ConvConfig] = []
        for each in released.convolutions:
            weight = shape_of(tensors, rf"{blocks}\.{index}\.conv\.conv\.weight")
            convolutions.append(replace(each, width=weight[0], kernel=weight[2]))
            index += 1
        block = rf"{blocks}\.{index}"
        direction = shape_of(tensors, rf"{block}\.pos_conv\.0\.(weight_v|parametrizations\.weight\.original1|weight)")
        ffn = shape_of(tensors, rf"{block}\.layers\.0\.fc1\.weight")[0]
        stages.append(
            StageConfig(
                convolutions,
                layers=count(tensors, rf"{block}\.layers\.(\d+)\."),
                heads=max(1, direction[0] // 64),
                ffn=ffn,
                position_kernel=direction[2],
                position_groups=direction[0] // direction[1],
            )
        )
        index += 1
    return replace(wanted, stages=stages)


def _check_levels(tensors: Prefixed, config: EmovaS2UConfig) -> None:
    """See that the quantiser is the one that is known. Raises: InputError."""
    for key, expected in (("_levels_np", config.levels), ("_basis", [1, 8, 64, 512])):
        stored = tensors.get(f"quantizer.{key}")
        if stored is not None and stored.flatten().long().tolist() != expected:
            raise InputError(
                f"{tensors.name}: the quantiser's {key} is {stored.flatten().tolist()[:8]}, not {expected}; "
                "it is of another or a later release"
            )


# --- units to speech --------------------------------------------------------------------------------------------------
def u2s_names(config: EmovaU2SConfig) -> Names:
    """The detokenizer's tensors, below ``decoder.``."""
    kernels = len(config.head.kernels)
    units = [
        (rf"^head\.units\.{stage}\.{kernel}\.", f"dec.resblocks.{kernels * stage + kernel}.")
        for stage in range(len(config.head.rates))
        for kernel in range(kernels)
    ]
    couplings = [(rf"^flow\.couplings\.{index}\.", f"flow.flows.{2 * index}.") for index in range(config.flow.layers)]
    # The release's first spline is trained, but left out when it speaks.
    splines = [
        (rf"^durations\.flows\.{index}\.", f"dp.flows.{2 * index + 3}.") for index in range(config.durations.flows)
    ]
    norms = [
        (rf"\.{ours}\.(\d+)\.{leaf}$", rf".{theirs}.\1.{capital}")
        for ours, theirs in (
            ("depthwise_norms", "norms_1"), ("pointwise_norms", "norms_2"),
            ("norm_layers_1", "norm_layers_1"), ("norm_layers_2", "norm_layers_2"),
        )
        for leaf, capital in (("gain", "GAMMA"), ("bias", "BETA"))
    ]  # fmt: skip
    return Names(
        part=U2S,
        rename=(
            (r"^prior\.embedding\.", "enc_p.emb."),
            (r"^prior\.leave\.", "enc_p.proj."),
            (r"^prior\.layers\.(\d+)\.attention\.", r"enc_p.encoder.attn_layers.\1."),
            (r"^prior\.layers\.(\d+)\.attention_norm\.", r"enc_p.encoder.norm_layers_1.\1."),
            (r"^prior\.layers\.(\d+)\.ffn_norm\.", r"enc_p.encoder.norm_layers_2.\1."),
            (r"^prior\.layers\.(\d+)\.widen\.", r"enc_p.encoder.ffn_layers.\1.conv_1."),
            (r"^prior\.layers\.(\d+)\.narrow\.", r"enc_p.encoder.ffn_layers.\1.conv_2."),
            *splines,
            (r"^durations\.shift$", "dp.flows.0.m"),
            (r"^durations\.log_scale$", "dp.flows.0.logs"),
            (r"^durations\.from_style\.", "dp.cond."),
            (r"^durations\.", "dp."),
            (r"^(dp\..*|dp)\.depthwise\.", r"\1.convs_sep."),
            (r"^(dp\..*|dp)\.pointwise\.", r"\1.convs_1x1."),
            (r"^(dp\..*|dp)\.enter\.", r"\1.pre."),
            (r"^(dp\..*|dp)\.leave\.", r"\1.proj."),
            *norms,
            *couplings,
            (r"^(flow\.flows\.\d+)\.enter\.", r"\1.pre."),
            (r"^(flow\.flows\.\d+)\.leave\.", r"\1.post."),
            (r"^(flow\.flows\.\d+)\.net\.gated\.", r"\1.enc.in_layers."),
            (r"^(flow\.flows\.\d+)\.net\.mixed\.", r"\1.enc.res_skip_layers."),
            (r"^(flow\.flows\.\d+)\.net\.from_style\.", r"\1.enc.cond_layer."),
            *units,
            (r"^(dec\.resblocks\.\d+)\.dilated\.", r"\1.convs1."),
            (r"^(dec\.resblocks\.\d+)\.plain\.", r"\1.convs2."),
            (r"^head\.enter\.", "dec.conv_pre."),
            (r"^head\.from_style\.", "dec.cond."),
            (r"^head\.upsamplers\.", "dec.ups."),
            (r"^head\.leave\.", "dec.conv_post."),
            (r"^reference\.spectral\.0\.", "enc_r.spectral.0.fc."),
            (r"^reference\.spectral\.1\.", "enc_r.spectral.3.fc."),
            (r"^reference\.temporal\.(\d+)\.conv\.", r"enc_r.temporal.\1.conv1.conv."),
            (r"^reference\.query\.", "enc_r.slf_attn.w_qs."),
            (r"^reference\.key\.", "enc_r.slf_attn.w_ks."),
            (r"^reference\.value\.", "enc_r.slf_attn.w_vs."),
            (r"^reference\.attended\.", "enc_r.slf_attn.fc."),
            (r"^reference\.leave\.", "enc_r.fc.fc."),
        ),
        normed=(
            (r"^flow\.couplings\.\d+\.net\.(gated|mixed)\.\d+\.weight$", 0),
            (r"^flow\.couplings\.\d+\.net\.from_style\.weight$", 0),
            (r"^head\.(units|upsamplers)\..*\.weight$", 0),
        ),
        forms=((r"(^head|^durations|\.net)\.from_style\.weight$", "convolution"),),
        zeros=(r"^head\.leave\.bias$",),
        unused=(
            (r"enc_q\.", "the posterior encoder, of training alone"),
            (r"dp\.post_", "the posterior of durations, of training alone"),
            (r"dp\.flows\.1\.", "the spline that the release leaves out when it speaks"),
            (r"emb_g\.", "vectors of training speakers"),
        ),
    )


def u2s_config(tensors: Tensors | Prefixed, style_size: int) -> EmovaU2SConfig:
    """The detokenizer's config by its tensors' shapes; rates, kernels and heads are the release's.

    Raises:
        InputError: a tensor that shapes are told from is missing.
    """
    wanted = EmovaU2SConfig()
    rows, channels = shape_of(tensors, r"enc_p\.emb\.weight")
    prior = replace(
        wanted.prior,
        rows=rows,
        channels=channels,
        ffn=shape_of(tensors, r"enc_p\.encoder\.ffn_layers\.0\.conv_1\.weight")[0],
        layers=count(tensors, r"enc_p\.encoder\.attn_layers\.(\d+)\."),
    )
    coupling = shape_of(tensors, r"flow\.flows\.0\.pre\.weight")
    flow = FlowConfig(
        layers=count(tensors, r"flow\.flows\.(\d+)\.pre\."),
        channels=coupling[0],
        kernel=wanted.flow.kernel,
        depth=count(tensors, r"flow\.flows\.0\.enc\.in_layers\.(\d+)\."),
        lookahead=None,
    )
    spectral = shape_of(tensors, r"enc_r\.spectral\.0\.fc\.weight")
    return replace(
        wanted,
        style_size=style_size,
        latent_channels=2 * coupling[1],
        prior=prior,
        durations=replace(wanted.durations, channels=shape_of(tensors, r"dp\.pre\.weight")[0]),
        flow=flow,
        head=replace(wanted.head, channels=shape_of(tensors, r"dec\.conv_pre\.weight")[0]),
        reference=replace(wanted.reference, channels=spectral[0], n_fft=2 * (spectral[1] - 1)),
    )


# --- styles -----------------------------------------------------------------------------------------------------------
def label(style: Style) -> str:
    """How the release calls one of our styles."""
    gender, _, speed = style.gender.partition(" ")
    return f"gender-{gender}_emotion-{style.emotion}_speed-{speed or 'normal'}_pitch-{style.pitch}"


def style_rows(stored: object, name: str) -> dict[str, int]:
    """The row of each of the release's styles: as its configuration says, or in the order of its labels.

    Raises:
        InputError: the configuration's table is no such table.
    """
    genders = sorted({voice.split()[0] for voice in RELEASED_STYLES.voices})
    labels = [
        f"gender-{gender}_emotion-{emotion}_speed-{speed}_pitch-{pitch}"
        for gender, emotion, speed, pitch in product(
            genders, sorted(RELEASED_STYLES.emotions), _SPEEDS, sorted(RELEASED_STYLES.pitches)
        )
    ]
    if stored is None:
        return {each: row for row, each in enumerate(labels)}
    if not isinstance(stored, dict) or not all(type(stored.get(each)) is int for each in labels):
        raise InputError(f"{name}: u2s_style2idx does not name the 126 styles that are known; it is of a later release")
    return {each: stored[each] for each in labels}


def prototypes(table_LS: Tensor, rows: Mapping[str, int], name: str) -> StylePrototypes:
    """Our styles' vectors out of the release's table. Raises: InputError: it has other rows."""
    if table_LS.dim() != 2 or sorted(rows.values()) != list(range(len(table_LS))):
        raise InputError(
            f"{name}: style_embedding.weight has shape {list(table_LS.shape)}, {len(rows)} styles are known"
        )
    vectors = {style.key: table_LS[rows[label(style)]].float() for style in RELEASED_STYLES}
    return StylePrototypes(vectors, RELEASED_STYLES)


# --- both -------------------------------------------------------------------------------------------------------------
def read(
    tensors: Tensors, config: Mapping[str, object], report: Report
) -> tuple[EmovaS2UTokenizer, EmovaU2SDetokenizer, StylePrototypes]:
    """The two parts and the styles out of the release's tensors and its ``config.json``.

    Raises:
        InputError: something is missing, unknown, or of another shape.
    """
    for key in ("s2u_unit_type", "u2s_unit_type"):
        said = str(config.get(key, "40ms_multilingual_8888"))
        if not said.startswith("40ms_multilingual_8888"):
            raise InputError(f"{tensors.name}: {key} is {said[:60]}; 40ms_multilingual_8888 can be read")
    heard, spoken = Prefixed(tensors, "encoder."), Prefixed(tensors, "decoder.")
    ears_config = s2u_config(heard)
    _check_levels(heard, ears_config)
    ears = filled(lambda: EmovaS2UTokenizer(ears_config), s2u_names(ears_config), heard, report)
    if "style_embedding.weight" not in tensors:
        raise InputError(f"{tensors.name}: lacks tensor style_embedding.weight; {PARTIAL}")
    table_LS = tensors["style_embedding.weight"]
    voice_config = u2s_config(spoken, table_LS.shape[-1])
    voice = filled(lambda: EmovaU2SDetokenizer(voice_config), u2s_names(voice_config), spoken, report)
    styles = prototypes(table_LS, style_rows(config.get("u2s_style2idx"), tensors.name), tensors.name)
    report.mapped[STYLES] = 1
    known = ("encoder.", "decoder.", "style_embedding.weight")
    other = next((name for name in tensors if not name.startswith(known)), None)
    if other is not None:
        raise InputError(
            f"{tensors.name}: tensor {shown(other)} is none of the release's parts; it is of a later release"
        )
    assert isinstance(ears, EmovaS2UTokenizer) and isinstance(voice, EmovaU2SDetokenizer)
    return ears, voice, styles


def write(
    ears: EmovaS2UTokenizer, voice: EmovaU2SDetokenizer, styles: StylePrototypes
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The release's tensors and configuration out of our parts, without what was not used."""
    heard = give(s2u_names(ears.config), ears.state_dict())
    spoken = give(u2s_names(voice.config), voice.state_dict())
    rows = style_rows(None, "")
    table_LS = torch.stack([styles[style] for style in sorted(RELEASED_STYLES, key=lambda each: rows[label(each)])])
    tensors = {f"encoder.{name}": tensor for name, tensor in heard.items()}
    tensors |= {f"decoder.{name}": tensor for name, tensor in spoken.items()}
    tensors["style_embedding.weight"] = table_LS
    config = {
        "model_type": "emova_speech_tokenizer",
        "s2u_unit_type": "40ms_multilingual_8888",
        "u2s_unit_type": "40ms_multilingual_8888_xujing_cosyvoice_FT",
        "u2s_num_styles": len(rows),
        "u2s_dim_styles": table_LS.shape[1],
        "u2s_style2idx": rows,
    }
    return tensors, config
