"""Any language model's own tokenizer, grown by our control tokens and units; its own chat template is kept.

What users type never becomes a control token: theirs are special, and so are those of ours.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova.core.tokens import (
    ALIASES,
    ASSISTANT,
    BEGIN_OF_TEXT,
    CONTROL_TOKENS,
    END_OF_TEXT,
    END_OF_TURN,
    FRAME,
    SYSTEM,
    USER,
    extend_tokenizer,
    unit_token,
)
from emova.model.own_template import frame_of
from emova.model.processing_emova import CHAT_TEMPLATE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_CONTROL = re.compile(r"<\|.*\|>|</?(?:think|tool_\w+)>")
"""Names of tokens that steer a model, whether its authors call them special or not."""


def grow_tokenizer(
    tokenizer: PreTrainedTokenizerBase, codebook_size: int, name: str = "the tokenizer"
) -> PreTrainedTokenizerFast:
    """A tokenizer of its own text tokens, then what it lacks of our control tokens and the units.

    A tokenizer without a chat template, of a model that only continues texts, gets ours.

    Args:
        name: how errors call it.

    Raises:
        InputError: it has no byte for each character, its template cannot be followed, or text would become a control
            token.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{name}: its tokenizer has no tokenizer.json; give a model that has one")
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        raise InputError(f"{name}: its tokenizer is a {str(backend['model']['type'])[:20]}; BPE of bytes can be grown")
    aliases: dict[str, str] = {}
    more: dict[str, object] = {}
    template = tokenizer.chat_template
    if isinstance(template, str) and template:
        frame, end = frame_of(tokenizer, name)
        usual = dict.fromkeys((SYSTEM, USER, ASSISTANT), end)
        aliases = {END_OF_TURN: end, **{token: word for token, word in usual.items() if not _has(tokenizer, token)}}
        aliases |= {BEGIN_OF_TEXT: tokenizer.bos_token} if tokenizer.bos_token else {}
        aliases |= {END_OF_TEXT: tokenizer.eos_token} if tokenizer.eos_token else {}
        more = {ALIASES: aliases, FRAME: frame}
        around = "".join(frame.values())
        for token in backend["added_tokens"]:
            word = token["content"]
            token["special"] |= bool(_CONTROL.fullmatch(word)) or (bool(word.strip()) and word in around)
    _without_a_first_space(backend)
    # Nothing is put before a text that is cut into parts.
    backend["post_processor"] = None
    grown = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), clean_up_tokenization_spaces=False, **more
    )
    if not more:
        extend_tokenizer(grown, codebook_size)
        grown.chat_template = CHAT_TEMPLATE
    else:
        names = [aliases.get(token, token) for token in CONTROL_TOKENS]
        known = grown.get_vocab()
        units = [unit_token(unit) for unit in range(codebook_size)]
        grown.add_tokens(
            [token for token in dict.fromkeys([*names, *units]) if token not in known], special_tokens=True
        )
        grown.chat_template = template
        grown.pad_token, grown.eos_token = CONTROL_TOKENS[0], aliases[END_OF_TURN]
    check_forging(grown, name)
    return grown


def _has(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    return token in tokenizer.get_vocab()


def _without_a_first_space(backend: dict) -> None:
    """Text is cut into parts, so none of them gets a space in front that nobody wrote."""
    normalizer = backend.get("normalizer") or {}
    steps = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    kept = [step for step in steps or [] if step and step.get("type") != "Prepend"]
    backend["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    cutter = backend.get("pre_tokenizer") or {}
    for step in [cutter, *cutter.get("pretokenizers", [])]:
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
        if step.get("type") == "ByteLevel":
            step["add_prefix_space"] = False
    decoder = backend.get("decoder") or {}
    if decoder.get("type") == "Sequence":
        decoder["decoders"] = [step for step in decoder["decoders"] if step.get("type") != "Strip"]
    elif decoder.get("type") == "Metaspace":
        decoder["prepend_scheme"] = "never"


def check_forging(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """See that no control token's own name, typed as text, becomes a control token. Raises: InputError: one does."""
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    units = tokenizer.get_vocab().get(unit_token(0), -1)
    words = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    for word in [*words[:512], *words[-8:]] if units >= 0 else words:
        if special & set(tokenizer.encode(word, add_special_tokens=False, split_special_tokens=True)):
            raise InputError(f"{name}: the text {word[:40]!r} would become a control token; give another model")
