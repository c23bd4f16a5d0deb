"""``emova import``: weights that others released, as a checkpoint of ours."""

from __future__ import annotations

import argparse

from emova.cli.common import progress, show
from emova.core.errors import InputError

EXAMPLES = """examples:
  emova import emova-tokenizer Emova-ollm/emova_speech_tokenizer_hf --out emova-speech
  emova import emova-tokenizer downloads/emova_speech_tokenizer_hf --out emova-speech --ears-block 24
  emova import emova-hf Emova-ollm/emova-qwen-2-5-7b --speech emova-speech --out emova-7b
  emova import glm-4-voice THUDM/glm-4-voice-tokenizer --decoder THUDM/glm-4-voice-decoder --out glm-speech
  emova import glm-4-voice THUDM/glm-4-voice-tokenizer --decoder THUDM/glm-4-voice-decoder \\
    --language-model THUDM/glm-4-voice-9b --out glm-4-voice
  emova import causal-lm HuggingFaceTB/SmolLM2-135M-Instruct --speech emova-nano --out smollm2-grown"""
KINDS = ("emova-tokenizer", "emova-hf", "glm-4-voice", "causal-lm")
SPOKEN = ("emova-hf", "causal-lm")


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("kind", choices=KINDS, help="which release; docs/real-weights.md tells of each")
    parser.add_argument("source", metavar="SOURCE", help="its folder, its file of weights, or its name on a hub")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the new checkpoint's folder")
    parser.add_argument(
        "--decoder", metavar="SOURCE", help="of glm-4-voice: the decoder, which is a release of its own"
    )
    parser.add_argument(
        "--language-model", metavar="SOURCE",
        help="of glm-4-voice: the language model, for a whole checkpoint; without it the speech parts alone",
    )  # fmt: skip
    parser.add_argument(
        "--speech",
        metavar="FOLDER",
        help="of emova-hf: what emova-tokenizer was imported to; of causal-lm: any checkpoint. Its parts are copied",
    )
    parser.add_argument(
        "--ears-block", type=_units, metavar="N",
        help="units that are heard at a time; 0 waits for the end of a recording, as the releases do (0)",
    )  # fmt: skip
    parser.add_argument(
        "--voice-block", type=_units, metavar="N",
        help="units that are spoken at a time; 0 waits for the end of a reply (20; glm-4-voice: 25, then more)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, for machines")
    parser.add_argument("--quiet", action="store_true", help="show no progress")
    parser.set_defaults(run=run)


def _units(text: str) -> int:
    if not text.isdecimal() or int(text) > 1500:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number of units between 0 and 1500 (a minute)")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Import it."""
    if (arguments.decoder is not None) != (arguments.kind == "glm-4-voice"):
        raise InputError("--decoder: glm-4-voice needs it, and nothing else has it; see emova import --help")
    if arguments.language_model is not None and arguments.kind != "glm-4-voice":
        raise InputError("--language-model: glm-4-voice alone has it; see emova import --help")
    if (arguments.speech is not None) != (arguments.kind in SPOKEN):
        raise InputError("--speech: emova-hf and causal-lm need it, and nothing else has it; see emova import --help")
    if arguments.kind in SPOKEN and (arguments.ears_block is not None or arguments.voice_block is not None):
        raise InputError("--ears-block, --voice-block: are of the speech parts; import those with them, then the model")
    with progress(arguments) as tell:
        tell(f"Reading {arguments.source}")
        from emova.checkpoint.importing import program

        blocks = arguments.ears_block, arguments.voice_block
        if arguments.kind == "emova-hf":
            about = program.import_emova_model(arguments.source, arguments.speech, arguments.out)
        elif arguments.kind == "causal-lm":
            about = program.import_causal_lm(arguments.source, arguments.speech, arguments.out)
        elif arguments.kind == "glm-4-voice":
            about = program.import_glm_voice(
                arguments.source, arguments.decoder, arguments.out, *blocks, arguments.language_model
            )
        else:
            about = program.import_emova_tokenizer(arguments.source, arguments.out, *blocks)
    result = {
        "folder": arguments.out,
        "mapped": about.report.mapped,
        "unused": about.report.unused,
        "licences": [licence.line() for licence in about.licences],
    }
    lines = [f"{arguments.out}:", *(f"  {line}" for line in about.report.lines())]
    show(arguments, result, [*lines, *(f"  licence of {licence.line()}" for licence in about.licences)])
    return 0
