"""Projectors by their kind; ``emova.checkpoint.registry`` finds the class."""

from __future__ import annotations

from collections.abc import Mapping

from emova.checkpoint.registry import PROJECTORS
from emova.vision.protocol import Projector, ProjectorConfig

C_ABSTRACTOR = "c_abstractor"


def make_projector_config(kind: str, values: Mapping[str, object]) -> ProjectorConfig:
    """The shape of a projector of ``kind``; unknown keys raise TypeError. Raises: InputError: the kind is unknown."""
    made: ProjectorConfig = PROJECTORS.find(kind).config_class(**{**values, "kind": kind})
    return made


def projector_from_dict(values: Mapping[str, object]) -> ProjectorConfig:
    """The inverse of ``dataclasses.asdict``; without ``kind`` it is a C-Abstractor, as it always was before."""
    return make_projector_config(str(values.get("kind", C_ABSTRACTOR)), values)


def build_projector(config: ProjectorConfig) -> Projector:
    """Build the projector; its weights are random."""
    return PROJECTORS.find(config.kind)(config)  # type: ignore[call-arg]  # a protocol says nothing of __init__
