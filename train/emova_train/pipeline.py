"""``emova train all``: every program in a row, from the recipe's data to a checkpoint.

A program whose result is there already finds its last checkpoint and only loads it, so an interrupted row goes on where
it stopped. ``--profile smoke`` runs the row on a slice of data that it makes itself, for a few steps each, the stages
on two processes with ZeRO-2: it shows in minutes that a machine can train, and its checkpoint answers nonsense.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from emova.core.errors import InputError
from emova_train.row import from_program, need_configs, run_row

STAGES = range(4)
ALOUD_SHARDS = 50
"""Of everyday sentences, 500 each, by the canonical voice: what emova-nano's reading model has met."""


def _configs(size: str) -> tuple[dict[str, str], list[str]]:
    """The configs of a size: of the codec and the vision tower by name, of the stages in order."""
    parts = {name: f"{name}/{size}" for name in ("s2u", "u2s", "vision")}
    stages = [f"stages/{size}/stage{number}" for number in STAGES]
    need_configs(size, [*parts.values(), *stages])
    return parts, stages


def commands(size: str, data: str, out: str) -> list[list[str]]:
    """The command lines of the row, as arguments of ``emova train``."""
    configs, stages = _configs(size)
    units, voice = f"runs/s2u-{size}/export", f"runs/u2s-{size}/export"
    return [
        ["tokenizer", "--text", f"{data}/text", "--out", f"runs/tokenizer-{size}"],
        ["s2u", configs["s2u"]],
        ["units", "--tokenizer", units, "--data", data, "--set", "question", "answer", "s2u"],
        ["stage0", stages[0]],
        ["vision", configs["vision"]],
        *[[f"stage{number}", path] for number, path in enumerate(stages[1:], 1)],
        ["aloud", "--root", str(Path(data).parent), "--tokenizer", units, "--sets", "aloud"]
        + ["--shards", str(ALOUD_SHARDS)],
        ["words", "--text", f"{data}/text/aloud.jsonl", "--tokenizer", units, "--out", f"runs/words-{size}"],
        [f"stage{STAGES[-1]}", f"stages/{size}/stage{STAGES[-1]}_aloud"],
        ["u2s", configs["u2s"]],
        ["prototypes", configs["u2s"], "--detokenizer", voice, "--recogniser", "acoustic"],
        ["assemble", "--model", f"runs/stage3-{size}/export", "--speech-tokenizer", units]
        + ["--speech-detokenizer", voice, "--reading-model", f"runs/stage{STAGES[-1]}-{size}-aloud/export"]
        + ["--words", f"runs/words-{size}", "--out", out, "--max-mib", "64"],
    ]


def smoke_commands(size: str, data: str, runs: str, out: str, steps: int, processes: int) -> list[list[str]]:
    """The row of the smoke profile: the same programs and configs, ``steps`` steps each, on the slice in ``data``.

    The vision tower starts from nothing: its pre-training is one more run of what stage 2 trains.
    """
    configs, stages = _configs(size)
    units, voice = f"{runs}/s2u/export", f"{runs}/u2s/export"
    few = [f"run.max_steps={steps}", f"run.save_every={steps}", f"run.eval_every={steps}", "run.log_every=1"]
    few += ["run.workers=0", "run.threads=1"]
    s2u = [
        f"run.output_dir={runs}/s2u",
        f"train=[{{pattern: '{data}/speech/s2u-train-*.tar', repeat: 1}}]",
        f"validation=['{data}/speech/s2u-test-*.tar']",
        f"cache={runs}/cache/s2u",
        *("whisper=''", "aligner=''", "start_from=''", "batch_seconds=6", "ramp=1", "validation_clips=2"),
    ]
    u2s = [
        f"run.output_dir={runs}/u2s",
        f"data.train=['{data}/speech/style-train-*.tar']",
        f"data.validation=['{data}/speech/style-test-*.tar']",
        f"data.cache={runs}/cache/u2s",
        f"data.tokenizer={units}",
        *("data.processes=1", "data.validation_windows=4", "run.batch_size=4", "losses.adversarial_start=1"),
    ]
    stage = [
        f"data.root={data}",
        *("data.pack_tokens=256", "run.batch_size=1", "run.parallel.strategy=zero2"),
        *("samples.answers=1", "samples.spoken=0", "samples.losses_over=2", "samples.max_tokens=12"),
    ]
    launch = ["--launch", "torchrun", "--processes", str(processes), "--launch-dir", f"{runs}/launch"]

    def start(number: int) -> list[str]:
        if number:
            before = f"init.checkpoint={runs}/stage{number - 1}/export"
            return [before, "init.speech_tokenizer=''", "init.vision=''", "allow_random=true"]
        return [f"init.tokenizer={runs}/tokenizer", f"init.speech_tokenizer={units}"]

    return [
        ["tokenizer", "--text", f"{data}/text", "--out", f"{runs}/tokenizer", "--text-tokens", "1024"],
        ["s2u", configs["s2u"], *few, *s2u],
        ["units", "--tokenizer", units, "--data", data, "--set", "question", "answer", "s2u", "--jobs", "1"],
        *[
            [*launch, f"stage{number}", path, *few, *stage, f"run.output_dir={runs}/stage{number}", *start(number)]
            for number, path in enumerate(stages)
        ],
        ["words", "--text", f"{data}/text/pictures.jsonl", "--tokenizer", units, "--out", f"{runs}/words"],
        ["u2s", configs["u2s"], *few, *u2s],
        ["prototypes", configs["u2s"], *u2s, "--detokenizer", voice, "--recogniser", "acoustic", "--candidates", "2"],
        ["assemble", "--model", f"{runs}/stage{STAGES[-1]}/export", "--speech-tokenizer", units]
        + ["--speech-detokenizer", voice, "--words", f"{runs}/words", "--out", out, "--max-mib", "100"],
    ]


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train all``."""
    parser.add_argument("--size", default="nano", help="whose configs are run")
    parser.add_argument("--profile", choices=("full", "smoke"), default="full", help="smoke: a trial on a slice")
    parser.add_argument("--data", help="the recipe's folder; default: data/nano, for smoke data/smoke, which it makes")
    parser.add_argument("--out", help="the checkpoint's folder; default: runs/emova-nano, for smoke runs/smoke/emova")
    parser.add_argument("--runs", default="runs/smoke", help="smoke: the folder of the runs (default: runs/smoke)")
    parser.add_argument("--steps", type=int, default=6, help="smoke: steps a program (default: 6)")
    parser.add_argument("--processes", type=int, default=2, help="smoke: processes that train a stage (default: 2)")
    parser.add_argument("--from", dest="first", default="", help="start with this program")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    smoke = arguments.profile == "smoke"
    if smoke:
        data, out = arguments.data or "data/smoke", arguments.out or f"{arguments.runs}/emova"
        if Path(data).name != "smoke":
            raise InputError(f"--data {data}: the slice's folder is called smoke; give .../smoke")
        row = smoke_commands(
            arguments.size, data, arguments.runs, out, max(arguments.steps, 1), max(arguments.processes, 1)
        )
    else:
        data, out = arguments.data or "data/nano", arguments.out or "runs/emova-nano"
        row = commands(arguments.size, data, out)
    lines = [["train", *line] for line in row]
    if smoke:
        lines.insert(0, ["data", "make", "smoke", "--root", str(Path(data).parent), "--jobs", "1"])
    code = run_row(from_program(lines, arguments.first))
    if not code and smoke:
        print(f"everything ran; the checkpoint loads: emova chat --model {out} --text hello")
    return code
