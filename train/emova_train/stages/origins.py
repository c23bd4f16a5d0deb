"""Where the weights of each part come from, and that nothing is frozen at random.

A stage's export says it in ``origins.json``, so that the next stage still knows of a part that no stage has trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields

from emova.core.config import load_config
from emova.core.errors import InputError
from emova.model.building import ModelConfig
from emova.vision.none import KIND as NO_EYES
from emova_train.stages.config import InitConfig, StageConfig

FILE = "origins.json"
RANDOM = "random"
PARTS = {"llm": "language model", "projector": "projector", "vision": "vision tower"}
"""The parts by the names of ``rates``, and as they are called."""


def origins(config: StageConfig) -> dict[str, str]:
    """Where each of ``PARTS`` begins: ``RANDOM``, or the folder or name that its weights are read from.

    Raises:
        InputError: the model's config cannot be read.
    """
    init = config.init
    found = dict.fromkeys(PARTS, RANDOM)
    if init.checkpoint:
        found = {part: init.checkpoint for part in PARTS} | _read(init)
    else:
        shapes = load_config(ModelConfig, init.model, kind="model")
        found["llm"] = shapes.text.pretrained or RANDOM
        found["vision"] = shapes.vision_pretrained or RANDOM
        found["projector"] = shapes.projector_pretrained or RANDOM
        if shapes.vision.kind == NO_EYES:  # there are no weights
            found |= {"projector": NO_EYES, "vision": NO_EYES}
    if init.vision:
        found |= {"projector": init.vision, "vision": init.vision}
    if init.internvit:
        found["vision"] = init.internvit
    return found


def _read(init: InitConfig) -> dict[str, str]:
    """What an export says; nothing where it is of an earlier version, or is not there yet."""
    try:
        said = json.loads((init.folder / FILE).read_text(encoding="utf-8"))
        return {part: RANDOM for part in PARTS if said.get(part) == RANDOM}
    except (OSError, ValueError, AttributeError):
        return {}


def after(found: Mapping[str, str], config: StageConfig) -> dict[str, str]:
    """The origins that the stage's export has: what was trained comes from this run."""
    return {part: config.run.output_dir if getattr(config.rates, part) > 0 else came for part, came in found.items()}


def frozen_at_random(config: StageConfig, found: Mapping[str, str], pictures: bool) -> list[str]:
    """One line for each part that is used as it is and was never trained.

    Args:
        pictures: whether the data have any; without them tower and projector do nothing.
    """
    if config.allow_random:
        return []
    lines = []
    for part, name in PARTS.items():
        learns = getattr(config.rates, part) > 0
        whole = not (part == "vision" and config.rates.vision_share < 1) and not (part == "llm" and config.lora.rank)
        if found[part] == RANDOM and not (learns and whole) and (part == "llm" or pictures):
            kept = "is" if not learns else "is partly"
            lines.append(
                f"{name}: {kept} frozen (rates.{part}), and its weights are random; name where they come from "
                f"({_ways(part)}), train it, or give allow_random=true"
            )
    return lines


def _ways(part: str) -> str:
    ways = {
        "llm": ("checkpoint", "text.pretrained in init.model"),
        "projector": ("checkpoint", "vision", "projector_pretrained in init.model"),
        "vision": ("checkpoint", "vision", "internvit", "vision_pretrained in init.model"),
    }[part]
    known = {field.name for field in fields(InitConfig)}
    return ", ".join(f"init.{way}" if way in known else way for way in ways)


def refuse_random(config: StageConfig, found: Mapping[str, str], pictures: bool) -> None:
    """Raises: InputError: a part that is frozen has random weights."""
    for line in frozen_at_random(config, found, pictures):
        raise InputError(line)
