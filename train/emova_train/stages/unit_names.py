"""A stage learns the units of one tokenizer: those of its data, of its checkpoint and of ``init.speech_tokenizer``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from emova.checkpoint.loading import find_part
from emova.core.errors import InputError
from emova.speech.tokenizer.units import current, units_of
from emova_train.data.shards import find_set
from emova_train.data.units import units_of_file
from emova_train.stages.config import StageConfig
from emova_train.stages.tasks import SPEECH_TASKS


def data_units(config: StageConfig) -> dict[str, str]:
    """The units of each set that says whose they are."""
    data = config.data
    found = {}
    if data.sets:
        named = [name for name, passes in data.sets.items() if passes > 0] + data.held_out
        for name in named:
            try:
                found[name] = find_set(Path(data.shards.root), name).units
            except InputError:
                continue  # whoever reads it says so
    elif any(weight > 0 and task in SPEECH_TASKS for task, weight in data.mixture.items()):
        for name in {*data.questions, *data.asr, *data.tts, "answer"}:
            found[name] = units_of_file(Path(data.root) / data.units, name)
    return {name: current(units) for name, units in found.items() if units}


def unit_name(config: StageConfig, learnt: str) -> str:
    """The name of the units that the stage's model has afterwards; empty where nothing says it.

    Args:
        learnt: those that the checkpoint knows already.

    Raises:
        InputError: data or parts hold units of different tokenizers.
    """
    init = config.init
    own: Mapping[str, str] = {init.checkpoint: current(learnt)} if learnt else {}
    if init.speech_tokenizer:  # its units take the place of those that were learnt before
        own = {init.speech_tokenizer: units_of(find_part(init.speech_tokenizer, "speech_tokenizer"))}
    names = {**data_units(config), **own}
    if len(set(names.values())) > 1:
        (first, units), *others = names.items()
        other, theirs = next((name, each) for name, each in others if each != units)
        raise InputError(
            f"{first} holds units of the tokenizer {units[:40]}, {other} those of {theirs[:40]}: their numbers stand "
            "for other sounds; tokenise the speech again with one of them, or leave one out"
        )
    return next(iter(names.values()), "")
