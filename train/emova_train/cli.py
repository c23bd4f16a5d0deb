"""``emova train PROGRAM ...``: finds the training programs and imports only the one that is called."""

from __future__ import annotations

import argparse
import importlib

# Each program's module has ``register(parser)``, which adds its arguments and sets ``run``.
PROGRAMS = {
    "tokenizer": ("emova_train.stages.text_tokenizer", "learn the text vocabulary and add control tokens and units"),
    "distil": ("emova_train.s2u.distil", "teach the tokenizer's first stage, Whisper's encoder, to stream"),
    "s2u": ("emova_train.s2u.program", "the speech-to-unit tokenizer"),
    "kmeans": ("emova_train.s2u.kmeans", "the entangled speech tokenizer that the paradigms are compared with"),
    "units": ("emova_train.data.units", "turn the recipe's speech into units, once the tokenizer is trained"),
    "u2s": ("emova_train.u2s.program", "the unit-to-speech detokenizer"),
    "distil-units": ("emova_train.u2s.distil", "teach the detokenizer the units of other speakers, from itself"),
    "stage0": ("emova_train.stages.program", "language and speech-text, for a language model that starts from nothing"),
    "vision": ("emova_train.vision.program", "pre-train the vision tower"),
    "stage1": ("emova_train.stages.program", "the projector alone (EMOVA section 4.3)"),
    "stage2": ("emova_train.stages.program", "image-text and speech-text jointly"),
    "stage3": ("emova_train.stages.program", "omni-modal instructions"),
    "reading": ("emova_train.reading.run", "reading aloud: the language model alone, on many writers' sentences"),
    "prototypes": ("emova_train.u2s.prototypes", "choose the vectors of the 24 styles for a trained detokenizer"),
    "assemble": ("emova_train.export.assemble", "put the trained parts together to a checkpoint"),
    "all": ("emova_train.pipeline", "everything above in a row; --profile smoke tries all of it in minutes"),
    "average": ("emova_train.export.average", "the mean of a model's weights before and after a training"),
}


def _overview() -> str:
    width = max(map(len, PROGRAMS)) + 2
    lines = [f"  {name:<{width}}{what}" for name, (_, what) in PROGRAMS.items()]
    examples = [
        "  emova train stage3 nano/stage3 run.max_steps=500",
        "  emova train --launch torchrun --processes 2 stage3 nano/stage3 run.batch_size=1",
        "  emova train --launch slurm --nodes 16 stage2 paper/stage2",
    ]
    return "\n".join(["programs:", *lines, "", "examples:", *examples])


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _overview()
    launch = parser.add_argument_group("on many processes (before PROGRAM; stages only)")
    launch.add_argument("--launch", choices=("slurm", "torchrun", "deepspeed"), help="write the launch files, run them")
    launch.add_argument("--nodes", type=int, default=1, help="machines (default: this one)")
    launch.add_argument("--processes", type=int, help="a machine; default: one a GPU, 8 for more than one machine")
    launch.add_argument("--launch-dir", default="launch", help="the folder of the launch files (default: launch)")
    launch.add_argument("--only-write", action="store_true", help="write the launch files, run nothing")
    parser.add_argument("program", choices=PROGRAMS, metavar="PROGRAM", help="what to train, see below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments; --help shows them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    if arguments.launch:
        return _launch(arguments)
    module, what = PROGRAMS[arguments.program]
    program = importlib.import_module(module)
    parser = argparse.ArgumentParser(prog=f"emova train {arguments.program}", description=what)
    program.register(parser)
    parsed = parser.parse_args(arguments.rest)
    return int(parsed.run(parsed) or 0)


def _launch(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from emova_train.launch import LaunchPlan, launch, local_processes

    processes = arguments.processes
    if processes is None:
        # Nothing is known of other machines; eight GPUs are what most of them have.
        processes = 8 if arguments.nodes > 1 or arguments.launch == "slurm" else local_processes()
    plan = LaunchPlan(
        arguments.launch, arguments.program, arguments.rest, arguments.nodes, processes, Path(arguments.launch_dir)
    )
    return launch(plan, only_write=arguments.only_write)
