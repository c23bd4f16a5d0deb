"""What the commands share: options, checks before the long work, progress on stderr, results on stdout."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from emova.checkpoint.loading import checkpoint_styles
from emova.core.errors import InputError
from emova.core.io import STDIN, Source, read_once, read_source, shown
from emova.speech.style import Style

if TYPE_CHECKING:
    from emova.assistant import AssistantConfig
    from emova.engine.engine import EngineConfig

DEFAULT_MODEL = "emova-nano"
EXAMPLES = Path(__file__).parents[1] / "checkpoints" / "examples"
MAX_TEXT_BYTES = 1 << 20
Tell = Callable[[str], None]


def add_common(parser: argparse.ArgumentParser, examples: str) -> None:
    """The options of every command, and its examples under the help."""
    parser.epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples.strip().splitlines())
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, metavar="NAME", help="a shipped checkpoint or its folder (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object, for machines")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """What computes the language model."""
    parser.add_argument(
        "--backend", default="auto", choices=["auto", "native", "torch", "llama.cpp", "vllm"],
        help="what computes the language model: a compiled step, torch, llama.cpp from a GGUF file, or vLLM in an "
        "environment of its own; auto takes the file where the checkpoint has one, else the compiled step where it can "
        "(%(default)s)",
    )  # fmt: skip
    parser.add_argument("--gguf", default="", metavar="FILE", help="the file for llama.cpp, of emova export gguf")


def engine_config(arguments: argparse.Namespace) -> EngineConfig:
    """The engine's configuration with the command line's backend."""
    from emova.engine.engine import EngineConfig

    return EngineConfig(
        backend=arguments.backend, gguf=arguments.gguf, parallel=getattr(arguments, "parallel", EngineConfig.parallel)
    )


def add_audio_limit(parser: argparse.ArgumentParser) -> None:
    """How long audio may be."""
    parser.add_argument(
        "--max-seconds", type=_seconds, default=60.0, metavar="S", help="refuse longer audio (%(default)g)"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number of seconds between 0 and 3600")
    return value


def add_style(parser: argparse.ArgumentParser, free: bool = False) -> None:
    """The three words of a style; ``free`` leaves emotion and pitch to the model.

    Which words there are is the checkpoint's matter; the help shows those of the default one.
    """
    styles = checkpoint_styles(DEFAULT_MODEL)
    parser.add_argument("--voice", metavar="VOICE", help=_choices(styles.voices, styles.voices[0]))
    for option, words in (("--emotion", styles.emotions), ("--pitch", styles.pitches)):
        note = "chosen by the model" if free else words[0]
        parser.add_argument(option, metavar=option[2:].upper(), help=_choices(words, note))


def _choices(words: tuple[str, ...], note: str) -> str:
    return f"{', '.join(words)}, or what else the checkpoint has, see emova info ({note})"


def read_style(arguments: argparse.Namespace) -> Style:
    """The style that was asked for, of those of the checkpoint. Raises: InputError."""
    return checkpoint_styles(arguments.model).parse(arguments.voice, arguments.emotion, arguments.pitch)


def read_text(text: str) -> str:
    """A text of the command line; ``-`` is what is piped in. Raises: InputError: nothing is, or not UTF-8."""
    if text != STDIN:
        return text
    data, _ = read_source(read_once(text, "text"), "text", MAX_TEXT_BYTES)
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError("-: the text that is piped in is not UTF-8; convert it") from None


def check_pipe(*inputs: str | None) -> None:
    """See that one input at most is to come from the pipe. Raises: InputError."""
    if inputs.count(STDIN) > 1:
        raise InputError("-: only one input can be piped in; give the others as files or words")


def check_output(path: str) -> None:
    """See that a WAV can be written, before the long work. Raises: InputError."""
    from emova.core.writing import check_writable

    if Path(path).suffix.lower() != ".wav":
        raise InputError(f"{shown(path)}: only WAV is written; give a name that ends in .wav")
    before = Path(path).exists()
    if before and not Path(path).is_file():
        raise InputError(f"{shown(path)}: not a file; give the name of a file to write")
    check_writable(path)


def check_audio(source: Source, max_seconds: float, reject_silence: bool) -> None:
    """See that the audio is usable, before the model is loaded. Raises: InputError."""
    from emova.speech.audio import AudioLimits, load_audio

    load_audio(source, 16_000, AudioLimits(max_seconds=max_seconds), reject_silence=reject_silence)


def assistant_config(arguments: argparse.Namespace) -> AssistantConfig:
    """The assistant's configuration with the command line's limits."""
    from emova.assistant import AssistantConfig
    from emova.speech.audio import AudioLimits

    limits = AudioLimits(max_seconds=getattr(arguments, "max_seconds", 60.0))
    return AssistantConfig(audio_limits=limits, engine=engine_config(arguments))


@contextmanager
def progress(arguments: argparse.Namespace) -> Iterator[Tell]:
    """A function that shows on stderr what is being done, and nothing for machines."""
    if arguments.json or arguments.quiet:
        yield lambda message: None
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status(Text("Starting"), spinner="dots") as status:
        yield lambda message: status.update(Text(printable(message)))


def printable(text: str) -> str:
    """Text for a terminal: what a model or a file says must not steer it."""
    return "".join(character if character.isprintable() else " " for character in text)


def show(arguments: argparse.Namespace, result: Mapping[str, object], lines: list[str]) -> None:
    """Print the result: as JSON, or as lines for people."""
    if arguments.json:
        print(json.dumps(result, ensure_ascii=False))
    else:
        print("\n".join(printable(line) for line in lines))
    sys.stdout.flush()
