"""Put the trained parts together to a checkpoint folder, in 16 or 8 bits, and see that the whole of it loads."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import emova.core.compat  # noqa: F401

# isort: split
import torch
from transformers.utils.logging import disable_progress_bar

from emova.checkpoint.files import WORDS
from emova.checkpoint.loading import find_checkpoint
from emova.core.errors import InputError
from emova.core.weights import Storage
from emova.decoding.word_search import WordModel
from emova.speech.style import StylePrototypes
from emova_train.core.checkpointing import staged_folder
from emova_train.core.program import run_module

CARD = "README.md"
# Units are made without it; it measures them, and judges what is read aloud and written down.
PHONE_DECODER = "phone_decoder."


@dataclass(frozen=True)
class AssembleConfig:
    """Where the parts come from, and how they are stored.

    Attributes:
        model: a stage's export, with the processor's files.
        speech_tokenizer, speech_detokenizer: exports of S2U and U2S.
        reading_model: another stage's export, whose language model reads aloud; empty: the model's own does.
        prototypes: the style vectors; empty takes the file beside the detokenizer, if there is one.
        out: the checkpoint's folder; an earlier checkpoint there is replaced, its README.md is kept.
        words: the folder of a model of words (`emova train words`), by which ordinary speech is written down.
        model_storage: bits of the language model; the model's vision parts have 16.
        tokenizer_storage, detokenizer_storage: bits of the speech parts.
        phone_decoder: keep the speech tokenizer's phone decoder.
        max_mib: most MiB that all files together may have; 0 sets no limit.
    """

    model: Path
    speech_tokenizer: Path
    speech_detokenizer: Path
    out: Path
    prototypes: Path | None = None
    reading_model: Path | None = None
    words: Path | None = None
    model_storage: Literal["float16", "int8"] = "float16"
    tokenizer_storage: Storage = "int8"
    detokenizer_storage: Storage = "float16"
    phone_decoder: bool = True
    max_mib: float = 0.0


def assemble(config: AssembleConfig) -> dict[str, int]:
    """Write the checkpoint and return the bytes of each part.

    Raises:
        InputError: a part is missing, does not fit the others, or the whole is too large.
    """
    from emova.checkpoint.loading import checkpoint_styles, load_parts

    with staged_folder(config.out) as staged:
        _write_model(find_checkpoint(config.model), staged, config.model_storage)
        _write_speech(config, staged)
        prototypes = _prototypes(config)
        if not prototypes.is_file():
            raise InputError(f"{prototypes}: no style prototypes there; make them first, or give --prototypes")
        StylePrototypes.load(prototypes, checkpoint_styles(staged)).save(staged)
        if config.reading_model is not None:
            _write_reading_model(find_checkpoint(config.reading_model), staged)
        if config.words is not None:
            WordModel.load(config.words / WORDS).save(staged / WORDS)
        load_parts(staged)
        sizes = part_sizes(staged)
        total = sum(sizes.values())
        if 0 < config.max_mib * 2**20 < total:
            raise InputError(
                f"{config.out}: {total / 2**20:.1f} MiB, more than {config.max_mib:g}; "
                "store a part in fewer bits, or raise --max-mib"
            )
        kept = config.out / CARD
        card = kept.read_text(encoding="utf-8") if kept.is_file() else model_card(config, sizes)
        (staged / CARD).write_text(card, encoding="utf-8")
    return sizes


def _prototypes(config: AssembleConfig) -> Path:
    """The file of the style vectors: as given (a checkpoint has one), else beside the detokenizer or its folder."""
    given = config.prototypes or config.speech_detokenizer
    if not given.exists():
        given = find_checkpoint(given)
    return given / StylePrototypes.FILE_NAME if given.is_dir() else given


def _write_model(source: Path, folder: Path, storage: Literal["float16", "int8"]) -> None:
    from emova.model import EmovaForConditionalGeneration, EmovaProcessor
    from emova.model.storage import save_int8

    for name in ("config.json", "tokenizer.json", "processor_config.json"):
        if not (source / name).is_file():
            raise InputError(f"{source / name}: missing; give the export of a stage")
    disable_progress_bar()
    model = EmovaForConditionalGeneration.from_pretrained(source, dtype=torch.float32, local_files_only=True)
    worst = max(float(tensor.abs().max()) for tensor in model.state_dict().values() if tensor.is_floating_point())
    if not worst < torch.finfo(torch.float16).max:
        raise InputError(f"{source}: a weight ({worst:g}) does not fit 16 bits; train with a lower rate")
    if storage == "int8":
        save_int8(model, folder)
    else:
        model.half().save_pretrained(folder)
    EmovaProcessor.from_pretrained(source, local_files_only=True).save_pretrained(folder)


def _write_reading_model(source: Path, folder: Path) -> None:
    from emova.checkpoint.loading import check_learnt, read_config
    from emova.checkpoint.reading_aloud import save_reading_model
    from emova.model import EmovaForConditionalGeneration

    if not (source / "config.json").is_file():
        raise InputError(f"{source / 'config.json'}: missing; give the export of a stage")
    check_learnt(str(read_config(source).get("unit_tokenizer", "")), folder / "speech_tokenizer", source)
    if (source / "tokenizer.json").read_bytes() != (folder / "tokenizer.json").read_bytes():
        raise InputError(f"{source}: has another text tokenizer than the model; train both from one export")
    model = EmovaForConditionalGeneration.from_pretrained(source, dtype=torch.float32, local_files_only=True)
    save_reading_model(model, folder)


def _write_speech(config: AssembleConfig, folder: Path) -> None:
    from emova.checkpoint.loading import check_learnt, find_part, read_config
    from emova.checkpoint.registry import load_detokenizer, load_tokenizer
    from emova.core.weights import save_folder
    from emova.speech.detokenizer.u2s import U2SDetokenizer
    from emova.speech.tokenizer.s2u import S2UTokenizer
    from emova.speech.tokenizer.units import name_units, named_units, units_of

    source = find_part(config.speech_tokenizer, "speech_tokenizer")
    voice = find_part(config.speech_detokenizer, "speech_detokenizer")
    learnt = str(read_config(folder).get("unit_tokenizer", ""))
    for part, units in ((config.model, learnt), (config.speech_detokenizer, named_units(voice))):
        check_learnt(units, source, part)
    tokenizer = load_tokenizer(source)
    if isinstance(tokenizer, S2UTokenizer):
        state = tokenizer.own_state()
        if not config.phone_decoder:
            state = {name: tensor for name, tensor in state.items() if not name.startswith(PHONE_DECODER)}
        save_folder(folder / "speech_tokenizer", tokenizer.config, state, config.tokenizer_storage)
    else:  # other kinds have a storage of their own
        tokenizer.save_pretrained(folder / "speech_tokenizer")
    name_units(folder / "speech_tokenizer", units_of(source))  # fewer bits are other weights, and the same units
    detokenizer = load_detokenizer(voice)
    if isinstance(detokenizer, U2SDetokenizer):
        detokenizer.save_pretrained(folder / "speech_detokenizer", config.detokenizer_storage)
    else:
        detokenizer.save_pretrained(folder / "speech_detokenizer")
    if named := named_units(voice):
        name_units(folder / "speech_detokenizer", named)


def part_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file or folder of a checkpoint."""
    return {
        path.name: sum(
            file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()
        )
        for path in sorted(folder.iterdir())
    }


def _training_rows(config: AssembleConfig) -> list[str]:
    """What each run says of itself: steps and hours, from the metrics beside its export."""
    from emova_train.core.metrics import FILE_NAME, read

    rows = []
    for export in (config.speech_tokenizer, config.speech_detokenizer, config.model):
        found = [row for row in read(export.parent / FILE_NAME) if row["kind"] == "train"]
        if found:
            hours = found[-1].get("time", 0.0) / 3600
            rows.append(f"| {export.parent.name} | {found[-1]['step']} | {hours:.2f} |")
    return rows


def model_card(config: AssembleConfig, sizes: dict[str, int]) -> str:
    """A first model card: what is known from the files; figures are added from the evaluation."""
    lines = [
        "---",
        "license: apache-2.0",
        "library_name: emova",
        "pipeline_tag: any-to-any",
        "---",
        f"# {config.out.name}",
        "",
        "A small omni-modal assistant: it sees a picture, hears a question and answers in text and in a voice with",
        "emotion. Trained from nothing by the programs in `train/` on data that `data_recipes/` makes.",
        "",
        "## Parts",
        "",
        "| part | MiB |",
        "| --- | --- |",
        *[f"| {name} | {size / 2**20:.2f} |" for name, size in sizes.items() if size > 2**10],
        "",
        "## Training",
        "",
        "| run | steps | hours of the last session |",
        "| --- | --- | --- |",
        *_training_rows(config),
        "",
        "## Figures",
        "",
        "Measured on held-out data by `emova eval nano`.",
        "",
        "## Limits",
        "",
        "It knows what its recipe taught it, and little else. It must not be relied on for facts.",
        "",
    ]
    return "\n".join(lines)


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train assemble``."""
    parser.add_argument("--model", type=Path, default=Path("runs/stage3-nano/export"), help="a stage's export")
    parser.add_argument("--speech-tokenizer", type=Path, default=Path("runs/s2u-nano/export"))
    parser.add_argument("--speech-detokenizer", type=Path, default=Path("runs/u2s-nano/export"))
    parser.add_argument(
        "--prototypes", type=Path, help="style_prototypes.safetensors or a checkpoint; default: beside the detokenizer"
    )
    parser.add_argument(
        "--reading-model", type=Path, metavar="EXPORT",
        help="of a stage: its language model reads aloud; default: the model's own",
    )  # fmt: skip
    parser.add_argument("--words", type=Path, metavar="FOLDER", help="of `emova train words`; default: none")
    parser.add_argument("--out", type=Path, default=Path("runs/emova-nano"), help="the checkpoint's folder")
    parser.add_argument("--model-storage", choices=("float16", "int8"), default="float16", help="of the language model")
    parser.add_argument("--tokenizer-storage", choices=("float32", "float16", "int8"), default="int8")
    parser.add_argument("--detokenizer-storage", choices=("float32", "float16", "int8"), default="float16")
    parser.add_argument("--no-phone-decoder", dest="phone_decoder", action="store_false", help="leave it out")
    parser.add_argument("--max-mib", type=float, default=0.0, help="most MiB of all files together (default: any)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    values = {name: getattr(arguments, name) for name in AssembleConfig.__dataclass_fields__}
    sizes = assemble(AssembleConfig(**values))
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
    print(f"{sum(sizes.values()) / 2**20:8.2f} MiB  {arguments.out}")
    print(json.dumps({"bytes": sum(sizes.values()), "out": str(arguments.out)}))
    return 0


def main() -> int:
    return run_module(register, "emova_train.export.assemble", __doc__.split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())
