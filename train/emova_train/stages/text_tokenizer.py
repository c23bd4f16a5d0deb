"""Train nano's text tokenizer: byte-level BPE on the recipe's text, then the control tokens, then the speech units."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from emova.core.errors import InputError
from emova.core.tokens import extend_tokenizer
from emova.model.growing import grow_tokenizer
from emova.model.processing_emova import CHAT_TEMPLATE
from emova.speech.style import DEFAULT_STYLES
from emova_train.core.program import run_module

# The reply's frame, as often as a reply is spoken, so that its keys and punctuation take few tokens.
REPLY_FRAME = (
    '{"user question text": "What is it?", "assistant response text": "It is red.", '
    '"assistant response emotion": "happy", "assistant response pitch": "normal", "assistant response speech": ""}'
)
STYLE_WORDS = (*DEFAULT_STYLES.emotions, *DEFAULT_STYLES.pitches, *DEFAULT_STYLES.voices)


def train_tokenizer(texts: Iterable[str], text_tokens: int, codebook_size: int) -> PreTrainedTokenizerFast:
    """Learn ``text_tokens`` byte-level BPE tokens and add the control tokens and units behind them.

    Args:
        texts: what to learn from.
        text_tokens: size of the text vocabulary, the 256 bytes included; fewer when the texts hold fewer merges.
        codebook_size: speech units.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=text_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)
    # Ids must not depend on how much text there was: unused places keep the control tokens where they belong.
    unused = [f"<|unused_{index}|>" for index in range(text_tokens - len(fast))]
    if unused:
        fast.add_tokens([AddedToken(token, special=True) for token in unused], special_tokens=True)
    extend_tokenizer(fast, codebook_size)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def strings(value: object) -> Iterator[str]:
    """All strings in a JSON value that are text to speak or read (keys and identifiers are not)."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in ("text", "question", "answer", "caption", "questions", "transcript"):
                yield from strings(item)


def corpus(paths: Iterable[Path]) -> Iterator[str]:
    """The texts of JSONL files, each also inside a reply's quotes, where its first word has no space before it."""
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                for text in strings(json.loads(line)):
                    yield text
                    yield '"' + text + '"'


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train tokenizer``."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--text", type=Path, nargs="+", help="JSONL files, or folders of them, to learn a vocabulary from"
    )
    source.add_argument("--extend", metavar="NAME", help="add to a language model's tokenizer: its folder or hub name")
    parser.add_argument("--out", type=Path, default=Path("runs/tokenizer-nano"))
    parser.add_argument("--text-tokens", type=int, default=4096)
    parser.add_argument("--codebook-size", type=int, default=4096)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    if arguments.extend:
        tokenizer = extended(arguments.extend, arguments.codebook_size)
        return _save(tokenizer, arguments.out)
    paths = [file for path in arguments.text for file in (sorted(path.rglob("*.jsonl")) if path.is_dir() else [path])]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise InputError(f"{(missing or arguments.text)[0]}: no text there; run `emova data make nano` first")
    # Frames are repeated so that their words become whole tokens whatever the other text is.
    frames = [REPLY_FRAME] * 2000 + list(STYLE_WORDS) * 200 + ["Reply as JSON."] * 200
    tokenizer = train_tokenizer([*corpus(paths), *frames], arguments.text_tokens, arguments.codebook_size)
    return _save(tokenizer, arguments.out)


def extended(name: str, codebook_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a pre-trained language model with the control tokens and units behind its own.

    Its chat template is kept, and where it has none it gets ours.

    Raises:
        InputError: there is none of that name, or it cannot be grown.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{name}: no tokenizer there ({reason}); give a folder or a name on the hub") from None
    return grow_tokenizer(tokenizer, codebook_size, name)


def _save(tokenizer: PreTrainedTokenizerFast, out: Path) -> int:
    tokenizer.save_pretrained(out)
    frame = len(tokenizer.encode(REPLY_FRAME))
    print(json.dumps({"tokens": len(tokenizer), "reply_frame_tokens": frame, "out": str(out)}))
    return 0


def main() -> int:
    return run_module(register, "emova_train.stages.text_tokenizer", __doc__.split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())
