"""Names of earlier versions and what they are called now: old configs, runs and data are read through this table.

A config class takes its keys as ``RENAMED`` (``emova.core.config.load_config`` moves them); tasks and sets of units are
looked up by ``task`` and ``set_names``; a picture's record may call its ``regions`` by ``REGIONS``.
"""

from __future__ import annotations

import glob

TASKS = {
    "told_talk": "teacher_forced_talk",
    "told_picture": "teacher_forced_picture",
    "thoughts_talk": "interleaved_talk",
    "thoughts_picture": "interleaved_picture",
}

STAGE_KEYS = {
    "heard_text": "losses.ctc",
    "seen_words": "losses.grounding",
    "weights.frame": "weights.skeleton",
    "data.heard": "data.asr",
    "data.said": "data.tts",
    "data.conversations.misheard": "data.conversations.transcript_noise",
    "data.conversations.thoughts": "data.conversations.interleaved",
    **{f"data.mixture.{old}": f"data.mixture.{new}" for old, new in TASKS.items()},
}
U2S_KEYS = {"data.rough": "data.augmented"}
VISION_KEYS = {"mark_weight": "region_weight"}
VISION_WEIGHTS = {"token_marks": "token_regions", "patch_marks": "patch_regions"}
"""Beginnings of the names of weights in checkpoints."""

AUGMENTED = "_augmented"
"""What ends the name of a set of units that were heard through noise, rooms, other speeds and vocal tracts."""
_ENDINGS = {"_rough": AUGMENTED}
_SETS = {"said": "tts", "changed": "voice_conversion"}

REGIONS = ("regions", "marks")
"""A record's field of annotated regions, today's name first."""


def task(name: str) -> str:
    """Today's name of a task."""
    return TASKS.get(name, name)


def set_names(name: str) -> tuple[str, ...]:
    """The names that a set's files may have, by a name of any version: today's first."""
    ending = next((each for each in (*_ENDINGS, *_ENDINGS.values()) if name.endswith(each)), "")
    base = _SETS.get(name.removesuffix(ending), name.removesuffix(ending))
    bases = [base, *(old for old, new in _SETS.items() if new == base)]
    ending = _ENDINGS.get(ending, ending)
    endings = [ending, *(old for old, new in _ENDINGS.items() if new == ending)]
    return tuple(f"{each}{end}" for each in bases for end in endings)


def find_shards(pattern: str) -> list[str]:
    """The files of a glob pattern ``.../SET-SPLIT-*.tar``, sorted, with the set by the first name that has any."""
    folder, slash, file = pattern.rpartition("/")
    name, dash, rest = file.partition("-")
    named = [f"{folder}{slash}{each}{dash}{rest}" for each in set_names(name)] if dash else []
    return next((sorted(found) for each in (pattern, *named) if (found := glob.glob(each))), [])
