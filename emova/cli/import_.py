"""``emova import``: weights that others released, as a checkpoint of ours."""

from __future__ import annotations

import argparse

from emova.cli.common import progress, show

EXAMPLES = """examples:
  emova import emova-tokenizer Emova-ollm/emova_speech_tokenizer_hf --out emova-speech
  emova import emova-tokenizer downloads/emova_speech_tokenizer_hf --out emova-speech --ears-block 24"""


def register(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = EXAMPLES
    parser.add_argument("kind", choices=["emova-tokenizer"], help="which release; docs/real-weights.md tells of each")
    parser.add_argument("source", metavar="SOURCE", help="its folder, its file of weights, or its name on a hub")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the new checkpoint's folder")
    parser.add_argument(
        "--ears-block", type=_units, default=0, metavar="N",
        help="units that are heard at a time; 0 waits for the end of a recording, as the release does (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--voice-block", type=_units, default=20, metavar="N",
        help="units that are spoken at a time; 0 waits for the end of a reply, as the release does (%(default)s)",
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
    with progress(arguments) as tell:
        tell(f"Reading {arguments.source}")
        from emova.checkpoint.importing.program import import_emova_tokenizer

        report, licences = import_emova_tokenizer(
            arguments.source, arguments.out, arguments.ears_block, arguments.voice_block
        )
    result = {
        "folder": arguments.out,
        "mapped": report.mapped,
        "unused": report.unused,
        "licences": [licence.line() for licence in licences],
    }
    lines = [f"{arguments.out}:", *(f"  {line}" for line in report.lines())]
    show(arguments, result, [*lines, *(f"  licence of {licence.line()}" for licence in licences)])
    return 0
