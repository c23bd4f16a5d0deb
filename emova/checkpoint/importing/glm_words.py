"""The text tokenizer of GLM-4-Voice: a table of byte strings (``tokenizer.model``), and the tokens added to it.

The table is in tiktoken's form: a byte string in base64 and its rank, which is its id, on every line. Merges follow
from the ranks, as in transformers' ``TikTokenConverter``.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emova.checkpoint.importing.source import AGAIN, read_json
from emova.core.errors import InputError
from emova.core.io import shown
from emova.core.tokens import (
    ALIASES,
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    END_OF_TURN,
    FRAME,
    IMAGE,
    IMAGE_END,
    IMAGE_ROW,
    IMAGE_START,
    PAD,
    SPEECH_END,
    SPEECH_START,
    USER,
    unit_token,
)
from emova.core.writing import write_text
from emova.reply.glm_voice import FRAME as GLM_FRAME

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)
"""How GLM-4 cuts text before it merges."""
NAMES = {
    PAD: "<|endoftext|>",
    BEGIN_OF_TEXT: "<sop>",
    END_OF_TEXT: "<|endoftext|>",
    END_OF_TURN: USER,
    IMAGE: "<|begin_of_image|>",
    IMAGE_START: "<|begin_of_image|>",
    IMAGE_END: "<|end_of_image|>",
    IMAGE_ROW: "<|begin_of_image|>",
    SPEECH_START: "<|begin_of_audio|>",
    SPEECH_END: "<|end_of_audio|>",
}
"""What stands for our control tokens; those of roles have the same names. Pictures there are none."""
TABLE, CONFIG, MORE = "tokenizer.model", "tokenizer_config.json", "added_tokens.json"
_UNIT = re.compile(r"<\|audio_(\d{1,6})\|>")
_LARGEST = 32 << 20  # bytes of the table
_MOST = 1 << 20  # tokens


def released_unit(unit: int) -> str:
    """What the release calls a unit."""
    return f"<|audio_{unit}|>"


def read_words(folder: Path, units: int) -> PreTrainedTokenizerFast:
    """The release's tokenizer with units of our names, each token at the release's id.

    Args:
        units: how many there must be.

    Raises:
        InputError: a file is missing or damaged, a token is missing, or the units are others.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ranks, added = _ranks(folder / TABLE), _added(folder)
    first = len(ranks)
    names = [added.get(index, f"<|reserved_{index}|>") for index in range(first, max(added, default=first - 1) + 1)]
    if min(added, default=first) < first or len(set(names)) < len(names):
        raise InputError(f"{shown(folder)}: two tokens have one id, or one has two; it is of another release")
    ours = [unit_token(int(match[1])) if (match := _UNIT.fullmatch(name)) else name for name in names]
    model = models.BPE(*_merges(ranks), fuse_unk=False, ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    # All of them special, so that what a user types never becomes one.
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in ours])
    found = tokenizer.get_vocab(with_added_tokens=True)
    frame = (word for text in GLM_FRAME.values() for word in re.findall(r"<[^<>]+>|\[gMASK\]", text))
    missing = [name for name in {*NAMES.values(), *frame} if name not in found]
    if missing:
        raise InputError(f"{shown(folder)}: the tokenizer lacks {sorted(missing)[0]}; it is of another release")
    start = found.get(unit_token(0), -1)
    count = sum(1 for name in found if _is_unit(name))
    if count != units or any(found.get(unit_token(unit)) != start + unit for unit in range(units)):
        raise InputError(
            f"{shown(folder)}: the language model knows {count} units, the speech tokenizer has {units}, one after "
            "another; they are of two releases"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=NAMES[PAD],
        eos_token=NAMES[END_OF_TURN],
        **{ALIASES: NAMES, FRAME: GLM_FRAME},
    )


def write_words(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """The release's files of a tokenizer that ``read_words`` made."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    byte_of = {character: byte for byte, character in _characters().items()}
    lines = [
        f"{base64.b64encode(bytes(byte_of[character] for character in token)).decode()} {rank}\n"
        for token, rank in sorted(backend["model"]["vocab"].items(), key=lambda item: item[1])
    ]
    write_text(folder / TABLE, "".join(lines))
    added = {}
    for token in backend["added_tokens"]:
        name = token["content"]
        unit = name.removeprefix(unit_token(0)[:-3]).removesuffix("|>") if _is_unit(name) else None
        added[str(token["id"])] = {"content": released_unit(int(unit)) if unit else name, "special": True}
    write_text(folder / CONFIG, json.dumps({"added_tokens_decoder": added}, indent=2) + "\n")


def _is_unit(name: str) -> bool:
    start = unit_token(0)[:-3]
    return name.startswith(start) and name.removeprefix(start).removesuffix("|>").isdecimal()


def _ranks(path: Path) -> dict[bytes, int]:
    if not path.is_file():
        raise InputError(f"{shown(path)}: missing; {AGAIN}")
    ranks: dict[bytes, int] = {}
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError
        for line in path.read_text(encoding="ascii").splitlines():
            word, rank = line.split()
            ranks[base64.b64decode(word, validate=True)] = int(rank)
        if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([each]) not in ranks for each in range(256)):
            raise ValueError
    except (OSError, ValueError, binascii.Error):
        raise InputError(f"{shown(path)}: damaged, no table of byte strings; {AGAIN}") from None
    return ranks


def _added(folder: Path) -> dict[int, str]:
    """The added tokens by their ids, of the configuration and of a file of their own where there is one."""
    found: dict[int, str] = {}
    try:
        decoder = read_json(folder / CONFIG).get("added_tokens_decoder", {})
        assert isinstance(decoder, Mapping)
        found |= {int(index): str(token["content"]) for index, token in decoder.items()}
        if (folder / MORE).is_file():
            found |= {int(str(index)): name for name, index in read_json(folder / MORE).items()}
        if any(not 0 <= index < _MOST for index in found):
            raise ValueError
    except (AssertionError, ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{shown(folder / CONFIG)}: damaged, no table of added tokens; {AGAIN}") from None
    return found


def _characters() -> dict[int, str]:
    """How byte-level BPE writes each byte."""
    from emova.reply.grammar import byte_of_character

    return {byte: character for character, byte in byte_of_character().items()}


def _merges(ranks: Mapping[bytes, int]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges: a token's halves in all ways, the tokens in the order of their ranks."""
    characters = _characters()
    text = {token: "".join(characters[byte] for byte in token) for token in ranks}
    merges: list[tuple[str, str]] = []
    for token in sorted(ranks, key=ranks.__getitem__):
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in halves if left in ranks and right in ranks]
        merges += [(text[left], text[right]) for left, right in sorted(known, key=lambda h: (ranks[h[0]], ranks[h[1]]))]
    return {text[token]: rank for token, rank in ranks.items()}, merges
