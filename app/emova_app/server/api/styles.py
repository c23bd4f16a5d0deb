"""The loaded checkpoints' styles in the OpenAPI document: fields that hold such a word list what it may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI

from emova.speech.style import StyleSet

STYLE_WORD = "x-emova-words"
"""Marks a field in the schema: ``emotions`` or ``pitches``."""


def show_styles(app: FastAPI, styles: Sequence[StyleSet]) -> None:
    """Let the application's document say which words its checkpoints have."""
    plain = app.openapi
    each = [checkpoint.to_dict() for checkpoint in styles]
    words = {name: list(dict.fromkeys(word for one in each for word in one[name])) for name in each[0]}

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = plain()
            _fill(app.openapi_schema, words)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's own way to change the document


def _fill(node: object, words: dict[str, list[str]]) -> None:
    """Each marked schema below ``node`` gets an ``enum``."""
    if isinstance(node, list):
        for each in node:
            _fill(each, words)
    elif isinstance(node, dict):
        name = node.pop(STYLE_WORD, None)
        if name is not None:
            node.pop("maxLength", None)
            node["enum"] = words[name]
        for each in node.values():
            _fill(each, words)
