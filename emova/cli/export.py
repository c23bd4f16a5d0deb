"""``emova export``: a checkpoint's language model for another program."""

from __future__ import annotations

import argparse
from pathlib import Path

from emova.cli.common import add_common, progress, show
from emova.core.errors import InputError
from emova.core.io import shown


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(
        parser,
        "emova export gguf --out emova-nano.gguf\nemova export gguf --dtype f32 --model runs/stage3\n"
        "emova export emova-tokenizer --model emova-speech --out released",
    )
    parser.add_argument(
        "format",
        choices=["gguf", "emova-hf", "emova-tokenizer", "glm-4-voice"],
        help="gguf: the language model for llama.cpp; the others: what was imported from that release, as it was there",
    )
    parser.add_argument(
        "--out", default="emova.gguf", metavar="PATH", help="the file to write, or the new folder (%(default)s)"
    )
    parser.add_argument(
        "--dtype",
        default="f16",
        choices=["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m"],
        help="how matrices are stored; q8_0, q4_0 and q4_k_m need llama-cpp-python (%(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file, or the folder."""
    out = Path(arguments.out)
    if arguments.format != "gguf":
        return _export_release(arguments)
    if out.suffix != ".gguf":
        raise InputError(f"{shown(out)}: llama.cpp reads files that end in .gguf; give such a name")
    from emova.core.writing import check_writable

    check_writable(out)
    with progress(arguments) as tell:
        tell(f"Loading {arguments.model}")
        from emova.checkpoint.gguf import export_gguf
        from emova.checkpoint.loading import check_files, find_checkpoint, load_model, load_processor

        folder = find_checkpoint(arguments.model)
        check_files(folder)
        model, tokenizer = load_model(folder, widened=False), load_processor(folder).tokenizer
        tell(f"Writing {arguments.out}")
        export_gguf(model, tokenizer, out, arguments.dtype, Path(arguments.model).name)
    result = {"file": arguments.out, "bytes": out.stat().st_size, "dtype": arguments.dtype}
    show(arguments, result, [f"{arguments.out}: {out.stat().st_size / 1e6:.1f} MB, {arguments.dtype}"])
    return 0


def _export_release(arguments: argparse.Namespace) -> int:
    with progress(arguments) as tell:
        tell(f"Writing {arguments.out}")
        from emova.checkpoint.importing import program

        exports = {
            "emova-hf": program.export_emova_model,
            "emova-tokenizer": program.export_emova_tokenizer,
            "glm-4-voice": program.export_glm_voice,
        }
        exports[arguments.format](arguments.model, arguments.out)
    show(arguments, {"folder": arguments.out}, [f"{arguments.out}: as the release has it, without what was not used"])
    return 0
