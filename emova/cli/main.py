"""The command line: finds the sub-commands, imports only the one that is called, and turns errors into one line.

A package adds a command by an entry point in the group ``emova.commands`` whose value is ``module:register``;
``register(parser)`` adds arguments and sets the default ``run``, a function from the parsed arguments to an exit code.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import keyword
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NoReturn

from emova import __version__
from emova.core.errors import InputError, disk_full
from emova.core.extras import missing_package
from emova.core.io import shown
from emova.core.process import Stopped, end_by, open_streams, settle_streams, stoppable, tell, unread_stderr

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

GROUP = "emova.commands"
OWN = ("chat", "transcribe", "speak", "tokenize", "resynthesize", "info", "import")
HELP = {
    "chat": "ask a question by voice or text, about a picture or not, and hear the answer",
    "transcribe": "write down what is said in audio files",
    "speak": "read a text aloud in one of 24 styles",
    "tokenize": "turn audio into speech units",
    "resynthesize": "say the same again in another voice, emotion or pitch",
    "info": "show a checkpoint's parts and sizes",
    "import": "make a checkpoint of weights that others released",
    "demo": "open the demo in a browser",
    "serve": "serve the assistant over HTTP",
    "data": "make training data",
    "train": "train the speech parts and the three stages",
    "eval": "measure a checkpoint on held-out data",
    "bench": "measure speed against peers",
}
FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
MISNAMED = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
EXAMPLES = """examples:
  emova chat
  emova chat --image photo.png --audio question.wav --out answer.wav
  emova speak --emotion happy "The train is on time."
  emova COMMAND --help"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse passes over a disk that is full and a pipe that broke.
        (file or sys.stderr).write(message)


def run_program(main: Callable[[], object]) -> NoReturn:
    """Run the program of a module, ``python -m …``, as ``emova`` runs a command: bad input gives one line and 2."""
    try:
        main()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def _own(name: str) -> str:
    """A module cannot be called as a word of the language."""
    return f"emova.cli.{name}{'_' * keyword.iskeyword(name)}:register"


def find_commands() -> dict[str, str]:
    """Each command's ``module:register``."""
    commands = {name: _own(name) for name in OWN}
    commands |= {entry.name: entry.value for entry in entry_points(group=GROUP) if entry.name not in commands}
    order = {name: index for index, name in enumerate(HELP)}
    return dict(sorted(commands.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


def overview(commands: dict[str, str]) -> str:
    """The text of ``emova --help``."""
    width = max(map(len, commands)) + 2
    lines = [f"  {name:<{width}}{HELP.get(name, name)}" for name in commands]
    return "\n".join(
        [
            "usage: emova [--help] [--version] COMMAND ...",
            "",
            "An assistant that sees, hears, and answers in a voice.",
            "",
        ]
        + ["commands:", *lines, "", EXAMPLES]
    )


def _register(value: str) -> Callable[[argparse.ArgumentParser], None]:
    module, _, function = value.partition(":")
    return getattr(importlib.import_module(module), function)


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command line. Raises: InputError."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview(find_commands()))
        return 0
    name, *rest = arguments
    if name == "--version":
        print(f"emova {__version__}")
        return 0
    commands = {name: _own(name)} if name in OWN else find_commands()
    if name not in commands:
        close = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {close[0]}?" if close else "see emova --help"
        raise InputError(f"there is no command {name[:40]!r}; {hint}")
    parser = Parser(
        prog=f"emova {name}", description=HELP.get(name), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    try:
        _register(commands[name])(parser)
        parsed = parser.parse_args(rest)
        return int(parsed.run(parsed) or 0)
    except ImportError as error:
        told = missing_package(error, name)
        if told is None or os.environ.get("EMOVA_DEBUG"):
            raise
        raise told from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``emova`` and return its exit code: 0, 1 for a fault of ours, 2 for bad input, 130 when interrupted."""
    open_streams()
    try:
        with stoppable(), unread_stderr():
            try:
                code = dispatch(sys.argv[1:] if arguments is None else arguments)
            except SystemExit:  # argparse has printed its help
                sys.stdout.flush()
                raise
            sys.stdout.flush()
            return code
    except InputError as error:
        tell(f"emova: {' '.join(str(error).split())}")
        return 2
    except KeyboardInterrupt:
        tell("emova: interrupted")
        return 130
    except Stopped as stopped:
        settle_streams()
        end_by(stopped.number)
        return 128 + stopped.number
    except BrokenPipeError:
        return 1  # the reader of our output has gone
    except Exception as error:
        if os.environ.get("EMOVA_DEBUG"):
            raise
        told = _told(error)
        if told is not None:
            tell(f"emova: {told}")
            return 2
        tell(f"emova: an internal error ({type(error).__name__}); set EMOVA_DEBUG=1 and report what it then prints")
        return 1
    finally:
        settle_streams()


def _told(error: Exception) -> str | None:
    """What a user can mend of a system's error, in a line; None if nothing."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    where = f"{shown(os.fsdecode(error.filename))}: " if isinstance(error.filename, (str, bytes)) else ""
    if disk_full(error):
        return f"{where}{os.strerror(error.errno)}; make room and run the same command again"
    if where and error.errno in MISNAMED:
        return f"{where}{os.strerror(error.errno)}; give another name"
    if where and error.errno in FORBIDDEN:
        return f"{where}{os.strerror(error.errno)}; give another place, or change its permissions"
    return None


if __name__ == "__main__":
    sys.exit(main())
