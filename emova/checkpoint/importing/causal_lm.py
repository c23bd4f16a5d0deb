"""Any causal language model of transformers as the beginning of a checkpoint of ours: its words grown by units.

It reads and writes text as before, by its own chat template; units and control tokens have rows that are the mean of
its words' rows and have to be trained. Tensors stay in the numbers that they have, one shard at a time.

Shape letters: V rows of the vocabulary, D width.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import torch
from torch import Tensor

from emova.checkpoint.importing.mapping import PARTIAL, Report
from emova.checkpoint.importing.shards import write_shards
from emova.checkpoint.importing.source import AGAIN, Shape, Tensors, read_json
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.memory import available_memory
from emova.core.tokens import TokenIds
from emova.model import EmovaConfig, EmovaForConditionalGeneration, EmovaImageProcessor, EmovaProcessor
from emova.model.growing import grow_tokenizer
from emova.model.modeling_emova import grow_rows
from emova.reply.json import JsonReply
from emova.speech.style import StyleSet
from emova.vision.none import KIND as NO_EYES
from emova.vision.none import NoProjectorConfig
from emova.vision.towers import VisionConfig

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

PART = "language model"
_EMBEDDING, _HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
_UNUSED = ((r".*rotary_emb\.inv_freq", "constants of the positions"),)


@dataclass(frozen=True)
class LanguageModel:
    """What is grown.

    Attributes:
        tensors: by the names of transformers' class.
        licence: as its card states it; empty where it has none.
    """

    name: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    tensors: Mapping[str, Tensor]
    shapes: Mapping[str, Shape]
    licence: str


def read_language_model(path: Path, most: int) -> LanguageModel:
    """A folder with ``config.json``, a tokenizer and safetensors, or a GGUF file that transformers can read.

    Args:
        most: bytes of a folder's tensors that lie in memory at a time.

    Raises:
        InputError: a file is missing or damaged, the kind is unknown, or there is too little memory.
    """
    from emova.checkpoint.importing.emova_model import text_config

    if path.is_file() and path.suffix == ".gguf":
        return _read_gguf(path)
    if not path.is_dir():
        raise InputError(f"{shown(path)}: a file; give the model's folder, or a file that ends in .gguf")
    said, tensors = read_json(path / "config.json"), Tensors.of(path)
    tensors.check_memory(widened=False, most=most)
    config = text_config(said, tensors.name)
    return LanguageModel(tensors.name, config, _tokenizer(path), tensors, tensors.shapes, stated_licence(path))


def _tokenizer(path: Path, **options: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    from emova.checkpoint.loading import quiet

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False, **options)
    except Exception:  # the tokenizers library raises bare Exceptions
        raise InputError(f"{shown(path)}: the tokenizer's files are missing or damaged; {AGAIN}") from None


def _read_gguf(path: Path) -> LanguageModel:
    """Weights become float32: what 4 and 8 bits hold has no other form here."""
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError(f"{shown(path)}: GGUF files need the package gguf; run pip install gguf") from None
    from transformers import AutoModelForCausalLM

    from emova.checkpoint.loading import quiet

    try:
        reader = GGUFReader(path)
        needed = sum(4 * int(tensor.n_elements) for tensor in reader.tensors)
        licence = reader.get_field("general.license")
        stated = "" if licence is None else str(licence.contents())
        _check_gguf(reader)
    except Exception:  # it unpacks what it reads by numbers in the file
        raise InputError(f"{shown(path)}: damaged, no GGUF file; {AGAIN}") from None
    check_memory(path.name, needed)
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except Exception as error:  # of a kind that transformers does not know, too
        why = str(error).splitlines()[0][:80] if str(error) else "damaged"
        raise InputError(f"{shown(path)}: transformers cannot read it ({why}); give the model's folder") from None
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return LanguageModel(shown(path), model.config, _tokenizer(path.parent, gguf_file=path.name), state, shapes, stated)


def _check_gguf(reader: GGUFReader) -> None:
    """See that the file says how large its model is, and is: transformers takes a 7B's sizes for what is not said.

    Raises:
        ValueError: it does not.
    """
    kind = reader.get_field("general.architecture")
    sizes = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
    found = [reader.get_field(f"{kind.contents()}.{size}") if kind is not None else None for size in sizes]
    blocks = {match[1] for tensor in reader.tensors if (match := re.match(r"blk\.(\d+)\.", tensor.name))}
    words = next((tensor for tensor in reader.tensors if tensor.name == "token_embd.weight"), None)
    if words is None or found[0] is None or found[1] is None or None in found:
        raise ValueError("a size or the embedding is missing")
    if (len(blocks), int(words.shape[0])) != (int(found[0].contents()), int(found[1].contents())):
        raise ValueError("other sizes than its tensors")


def check_memory(name: str, needed: int) -> None:
    """See that so many bytes are free. Raises: InputError."""
    there = available_memory()
    if needed > there:
        raise InputError(
            f"{name}: needs {needed / 2**30:.1f} GiB of memory, {there / 2**30:.1f} are free; close other programs, or "
            "import it on a larger machine"
        )


def stated_licence(folder: Path) -> str:
    """What the head of a model's card says of its licence; empty where there is no such line."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[: 1 << 16]
    except OSError:
        return ""
    head = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = dict(re.findall(r"^(license(?:_name|_link)?):[ \t]*['\"]?([^'\"\n]{1,120})", head, re.MULTILINE))
    words = [found.get("license_name") or found.get("license", ""), found.get("license_link", "")]
    return ", ".join(word.strip() for word in words if word.strip())


def write_grown(
    model: LanguageModel, units: int, unit_name: str, styles: StyleSet, folder: Path, report: Report
) -> None:
    """The model's and the processor's files into ``folder``.

    Args:
        units, unit_name: how many there are, and what they are called.

    Raises:
        InputError: a tensor is missing, unknown, of another shape or no number; the tokenizer cannot be grown.
    """
    words = grow_tokenizer(model.tokenizer, units, model.name)
    config = EmovaConfig.from_parts(
        model.config, VisionConfig(kind=NO_EYES), NoProjectorConfig(), TokenIds.from_tokenizer(words), len(words),
        styles=styles,
    )  # fmt: skip
    config.unit_tokenizer = unit_name
    with torch.device("meta"):
        whole = EmovaForConditionalGeneration(config)
        wanted = {name: tuple(tensor.shape) for name, tensor in whole.state_dict().items()}
    if _EMBEDDING not in wanted:
        raise InputError(f"{model.name}: a {model.config.model_type}; give a model of a family such as LLaMA or Qwen")
    prefix = _prefix(model.config)
    theirs = {own: official(own, prefix) for own in wanted}
    known = len(model.tokenizer)
    _check(model, theirs, wanted, known, bool(config.tie_word_embeddings), report)
    config.architectures = ["EmovaForConditionalGeneration"]
    config.save_pretrained(folder)
    write_shards(_read(model, theirs, wanted, known), folder)
    image = EmovaImageProcessor(tile_size=0, tile_side=1)
    EmovaProcessor(image, words, reply_format=JsonReply(styles)).save_pretrained(folder)


def official(own: str, prefix: str) -> str:
    """The name that a tensor of ours has in transformers' class."""
    return re.sub(r"^model\.language_model\.", prefix, own)


def _prefix(config: PreTrainedConfig) -> str:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    found = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return f"{getattr(found, 'base_model_prefix', 'model')}."


def _check(
    model: LanguageModel, theirs: Mapping[str, str], wanted: Mapping[str, Shape], known: int, tied: bool, report: Report
) -> None:
    """See that every tensor of ours is there and has the right shape, before any is read. Raises: InputError."""
    taken = 0
    for own, name in theirs.items():
        there = model.shapes.get(name)
        if there is None:
            if tied and own == _HEAD:
                continue
            raise InputError(f"{model.name}: lacks tensor {name} of the {PART}; {PARTIAL}")
        if own in (_EMBEDDING, _HEAD):
            if there[0] < known:
                raise InputError(f"{model.name}: {known} tokens, and {there[0]} rows of {name}; {AGAIN}")
            there = (wanted[own][0], *there[1:])
        if there != wanted[own]:
            raise InputError(
                f"{model.name}: tensor {name} has shape {list(there)}, config.json says {list(wanted[own])}; {PARTIAL}"
            )
        taken += 1
    expected = set(theirs.values())
    for name in model.shapes:
        why = next((why for pattern, why in _UNUSED if re.fullmatch(pattern, name)), None)
        if why is not None:
            report.unused[name] = why
        elif name not in expected:
            raise InputError(f"{model.name}: tensor {shown(name)} is more than config.json says; {PARTIAL}")
    report.mapped[PART] = taken


def _read(
    model: LanguageModel, theirs: Mapping[str, str], wanted: Mapping[str, Shape], known: int
) -> Iterator[tuple[str, Tensor]]:
    for own, name in theirs.items():
        if name not in model.shapes:
            continue  # a head that is tied
        value = model.tensors[name]
        if own in (_EMBEDDING, _HEAD):
            value = grow_rows(value, wanted[own][0], known)
        if not torch.isfinite(value).all():
            raise InputError(f"{model.name}: tensor {name} holds what is no number; {AGAIN}")
        yield own, value.contiguous()
