"""``emova train PROGRAM ...``: finds the training programs and imports only the one that is called."""

from __future__ import annotations

import argparse
import importlib

from emova.cli.main import Parser
from emova.core.errors import InputError

# Each program's module has ``register(parser)``, which adds its arguments and sets ``run``.
PROGRAMS = {
    "tokenizer": ("emova_train.stages.text_tokenizer", "learn the text vocabulary and add control tokens and units"),
    "distil": ("emova_train.s2u.distil", "teach the tokenizer's first stage, Whisper's encoder, to stream"),
    "s2u-pretrain": (
        "emova_train.s2u.pretrain",
        "the speech-to-unit encoder from speech without transcripts (SPIRAL)",
    ),
    "s2u": ("emova_train.s2u.program", "the speech-to-unit tokenizer"),
    "vq": ("emova_train.vq.program", "the supervised speech tokenizer of GLM-4-Voice: Whisper with a codebook inside"),
    "pseudo-labels": ("emova_train.vq.labels", "transcribe speech without transcripts, for vq"),
    "kmeans": ("emova_train.s2u.kmeans", "the entangled speech tokenizer that the paradigms are compared with"),
    "units": ("emova_train.data.units", "turn the recipe's speech into units, once the tokenizer is trained"),
    "aloud": ("emova_train.aloud", "everyday sentences by the canonical voice and by many, as units"),
    "words": ("emova_train.words", "words and their sounds from texts, by which ordinary speech is written down"),
    "u2s": ("emova_train.u2s.program", "the unit-to-speech detokenizer"),
    "flow": ("emova_train.flow.program", "the flow-matching decoder of GLM-4-Voice: units to mel frames to speech"),
    "glm-codec": (
        "emova_train.glm_codec",
        "GLM-4-Voice's tokenizer and decoder in a row: pseudo-labels, vq, flow, styles",
    ),
    "text-to-token": (
        "emova_train.text_to_token.program",
        "text to units without sound, for interleaved data (GLM-4-Voice section 4.1)",
    ),
    "distil-units": ("emova_train.u2s.distil", "teach the detokenizer the units of other speakers, from itself"),
    "stage0": ("emova_train.stages.program", "language and speech-text, for a language model that starts from nothing"),
    "vision": ("emova_train.vision.program", "pre-train the vision tower"),
    "stage1": ("emova_train.stages.program", "the projector alone (EMOVA section 4.3)"),
    "stage2": ("emova_train.stages.program", "image-text and speech-text jointly"),
    "stage3": ("emova_train.stages.program", "omni-modal instructions"),
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
        "  emova train stage2 paper/stage2 --dry-run --processes 128",
        "  emova train --launch slurm --nodes 16 --time 2-00:00:00 --account physics stage2 paper/stage2",
    ]
    return "\n".join(["programs:", *lines, "", "examples:", *examples])


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _overview()
    launch = parser.add_argument_group("on many processes (before PROGRAM; stages and codecs)")
    launch.add_argument("--launch", choices=("slurm", "torchrun", "deepspeed"), help="write the launch files, run them")
    _add_machine(launch)
    launch.add_argument("--launch-dir", default="launch", help="the folder of the launch files (default: launch)")
    launch.add_argument("--only-write", action="store_true", help="write the launch files, run nothing")
    launch.add_argument(
        "--elsewhere", action="store_true", help="data and weights are on other machines: write without them"
    )
    launch.add_argument("--time", help="Slurm's time limit, such as 2-00:00:00")
    launch.add_argument("--mem", help="Slurm's memory a node, such as 0 (all) or 500G")
    launch.add_argument("--account", help="Slurm's account")
    launch.add_argument("--partition", help="Slurm's partition")
    launch.add_argument(
        "--setup", action="append", default=[], metavar="LINE", help="a line of the script before the start; repeatable"
    )
    launch.add_argument(
        "--option", action="append", default=[], metavar="NAME[=VALUE]",
        help="any option of sbatch, torchrun or deepspeed, without its dashes; repeatable",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what a stage would do, and what would stop it")
    parser.add_argument("program", choices=PROGRAMS, metavar="PROGRAM", help="what to train, see below")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="its arguments; --help shows them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    if arguments.dry_run or "--dry-run" in arguments.rest:
        return _dry_run(arguments)
    if arguments.launch:
        return _launch(arguments)
    module, what = PROGRAMS[arguments.program]
    program = importlib.import_module(module)
    parser = Parser(prog=f"emova train {arguments.program}", description=what)
    program.register(parser)
    parsed = parser.parse_args(arguments.rest)
    return int(parsed.run(parsed) or 0)


def _add_machine(parser: argparse._ActionsContainer) -> None:
    """The arguments that say how many processes there are, and of what."""
    parser.add_argument("--nodes", type=int, default=1, help="machines (default: this one)")
    parser.add_argument("--processes", type=int, help="a machine; default: one a GPU, 8 for more than one machine")
    parser.add_argument("--gpu", help="the estimate of time: which GPU (default: A100)")
    parser.add_argument("--mfu", type=float, help="the share of its arithmetic that is reached (default: 0.35)")


def _processes(arguments: argparse.Namespace) -> int:
    """Of a machine."""
    from emova_train.launch import local_processes

    if arguments.processes is not None:
        return int(arguments.processes)
    # Nothing is known of other machines; eight GPUs are what most of them have.
    return 8 if arguments.nodes > 1 or arguments.launch == "slurm" else local_processes()


def _plan(arguments: argparse.Namespace, rest: list[str]) -> InputError | None:
    """Print the plan of a stage; what would stop it."""
    from emova_train.launch import STAGES
    from emova_train.planning.dry_run import Machine, dry_run, stops

    if arguments.program not in STAGES:
        raise InputError(f"{arguments.program}: only stages can be tried dry; {', '.join(STAGES)}")
    if not rest:
        raise InputError(f"{arguments.program}: give its config; see emova train {arguments.program} --help")
    given = {name: getattr(arguments, name) for name in ("gpu", "mfu") if getattr(arguments, name) is not None}
    machine = Machine(arguments.nodes * _processes(arguments), **given)
    return stops(dry_run(arguments.program, rest[0], rest[1:], machine))


def _dry_run(arguments: argparse.Namespace) -> int:
    # What is said of the machine may stand behind the program here.
    parser = Parser(prog=f"emova train {arguments.program}", argument_default=argparse.SUPPRESS)
    _add_machine(parser)
    parser.add_argument("--dry-run", action="store_true")
    parser.set_defaults()
    known, rest = parser.parse_known_args(arguments.rest)
    for name in ("nodes", "processes", "gpu", "mfu"):
        if f"--{name}" in " ".join(arguments.rest):
            setattr(arguments, name, getattr(known, name))
    problem = _plan(arguments, rest)
    if problem is not None:
        raise problem
    return 0


def _check_codec(program: str, rest: list[str]) -> None:
    """See that a codec's config can be read. Raises: InputError."""
    from emova.core.config import load_config
    from emova_train.flow.config import FlowRecipe
    from emova_train.s2u.pretrain import PretrainConfig
    from emova_train.s2u.program import S2UTrainConfig
    from emova_train.text_to_token.config import TextToTokenConfig
    from emova_train.u2s.config import U2SRecipe
    from emova_train.vq.program import VQTrainConfig

    if not rest:
        raise InputError(f"{program}: give its config; see emova train {program} --help")
    kinds: dict[str, tuple[str, type[object]]] = {
        "s2u-pretrain": ("s2u", PretrainConfig), "s2u": ("s2u", S2UTrainConfig), "u2s": ("u2s", U2SRecipe),
        "vq": ("vq", VQTrainConfig), "flow": ("flow", FlowRecipe),
        "text-to-token": ("text_to_token", TextToTokenConfig),
    }  # fmt: skip
    folder, cls = kinds[program]
    load_config(cls, rest[0], rest[1:], kind=folder)


def _launch(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from emova_train.launch import CODECS, LaunchPlan, launch

    slurm = [f"{name}={value}" for name in ("time", "mem", "account", "partition")
             if (value := getattr(arguments, name)) is not None]  # fmt: skip
    plan = LaunchPlan(
        arguments.launch, arguments.program, arguments.rest, arguments.nodes, _processes(arguments),
        Path(arguments.launch_dir), (*slurm, *arguments.option), tuple(arguments.setup),
    )  # fmt: skip
    if slurm and arguments.launch != "slurm":
        raise InputError(f"--{slurm[0].partition('=')[0]}: only --launch slurm has it; --option gives torchrun's own")
    if arguments.program in CODECS:
        _check_codec(arguments.program, arguments.rest)
    elif (problem := _plan(arguments, list(arguments.rest))) is not None and not arguments.elsewhere:
        raise problem
    return launch(plan, only_write=arguments.only_write)
