"""lmms-eval's own command line, started so that it runs beside a CPU build of torch: ``python -m`` this module.

``python -m emova_eval.adapters.run_lmms_eval --model emova --model_args pretrained=emova-nano --tasks ai2d``; all
words after the module's name are lmms-eval's. A task of your own on local data is a YAML file in the folder of
``--include_path``.
"""

from __future__ import annotations

import sys

import emova.core.compat  # noqa: F401  (before anything imports torchvision)
from emova.core.errors import InputError


def main() -> None:
    """Run lmms-eval. Raises: InputError: it is not installed."""
    try:
        from lmms_eval.__main__ import cli_evaluate
    except ModuleNotFoundError as error:
        raise InputError(f"lmms-eval is not installed, or lacks {error.name}; run `make setup-lmms-eval`") from None
    cli_evaluate()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        if not {"-h", "--help"} & set(sys.argv):
            print(f"emova: {error}", file=sys.stderr)
            sys.exit(2)
        print(f"usage: python -m emova_eval.adapters.run_lmms_eval [lmms-eval's arguments]\n\n{error}")
