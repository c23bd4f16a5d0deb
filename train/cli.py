"""``emova train PROGRAM ...``: finds the training programs and imports only the one that is called."""

from __future__ import annotations

import argparse
import importlib

# Each program's module has ``register(parser)``, which adds its arguments and sets ``run``.
PROGRAMS = {
    "tokenizer": ("train.text_tokenizer", "learn the text vocabulary and add control tokens and units"),
    "s2u": ("train.s2u", "the speech-to-unit tokenizer"),
    "units": ("train.tokenize_shards", "turn the recipe's speech into units, once the tokenizer is trained"),
    "u2s": ("train.u2s", "the unit-to-speech detokenizer"),
    "vision": ("train.vision_pretrain", "pre-train the vision tower"),
    "stage0": ("train.stages", "language and speech-text, for a language model that starts from nothing"),
    "stage1": ("train.stages", "the projector alone (EMOVA section 4.3)"),
    "stage2": ("train.stages", "image-text and speech-text jointly"),
    "stage3": ("train.stages", "omni-modal instructions"),
    "assemble": ("train.assemble", "put the trained parts together to a checkpoint"),
    "all": ("train.all", "everything above in a row"),
}


def _overview() -> str:
    width = max(map(len, PROGRAMS)) + 2
    lines = [f"  {name:<{width}}{what}" for name, (_, what) in PROGRAMS.items()]
    example = "  emova train stage3 configs/stages/nano/stage3.yaml run.max_steps=500"
    return "\n".join(["programs:", *lines, "", "example:", example])


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _overview()
    parser.add_argument("program", choices=PROGRAMS, metavar="PROGRAM", help="what to train, see below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments; --help shows them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    module, what = PROGRAMS[arguments.program]
    program = importlib.import_module(module)
    parser = argparse.ArgumentParser(prog=f"emova train {arguments.program}", description=what)
    program.register(parser)
    parsed = parser.parse_args(arguments.rest)
    return int(parsed.run(parsed) or 0)
