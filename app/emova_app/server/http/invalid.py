"""What is wrong with a request's JSON, in one line: the part, its value, and what it may be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

REFUSED = "refused"
_SHOWN = re.compile(r"[\w.+/-]{1,40}", re.ASCII)
_NOT = {
    "string_type": "a string",
    "list_type": "a list",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "none_required": "null",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_LIMITS = {
    "greater_than": ("too small; more than", "gt"),
    "greater_than_equal": ("too small; at least", "ge"),
    "less_than": ("too large; less than", "lt"),
    "less_than_equal": ("too large; at most", "le"),
}

Error = Mapping[str, Any]
"""As pydantic lists it."""


def only(*values: object) -> tuple[BeforeValidator, WithJsonSchema]:
    """For ``Annotated[None, *only(...)]``: a wish that cannot be granted is refused; ``values`` ask for nothing."""

    def check(value: object) -> None:
        if not any(value == each and type(value) is type(each) for each in values):
            raise PydanticCustomError(REFUSED, "this server cannot do that; leave it out")

    return BeforeValidator(check), WithJsonSchema({"enum": list(values)})


def explain(errors: Sequence[Error], body: object) -> tuple[str, str | None]:
    """The line, and the name of the part (None: the whole body).

    Args:
        errors: pydantic's, of checking ``body``.
    """
    places = [_place(error, body) for error in errors]
    # Of a union, each member that does not fit is an error; the one that was meant goes deepest.
    deepest = max(len(path) for path, _ in places)
    meant = [(error, path, value) for error, (path, value) in zip(errors, places, strict=True) if len(path) == deepest]
    first, path, value = meant[0]
    same = [error for error, other, _ in meant if other == path]
    kinds = list(dict.fromkeys(_NOT[error["type"]] for error in same if error["type"] in _NOT))
    name = _named(path)
    if len(kinds) == len(same) and kinds:
        return f"{name or 'the body'}: {_shown(value)} is not {' or '.join(kinds)}", name or None
    # A value of the right type comes nearer than one of the wrong type does.
    extra, reason = _reason(next((error for error in same if error["type"] not in _NOT), first), value)
    name = ".".join(filter(None, (name, extra)))
    return f"{name or 'the body'}: {reason}", name or None


def _place(error: Error, body: object) -> tuple[list[str | int], object]:
    """The way to the part that ``error`` is about, and its value. The names of a union's members are passed over."""
    steps: list[str | int] = [step for step in error.get("loc", ()) if step != "body"]
    path: list[str | int] = []
    value = body
    for index, step in enumerate(steps):
        if _has(value, step):
            value = value[step]  # type: ignore[index]  # it was just looked up
        elif error["type"] == "missing" and index == len(steps) - 1:
            value = None
        else:
            continue
        path.append(step)
    return path, value


def _has(value: object, step: str | int) -> bool:
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, Mapping) and step in value


def _named(path: Sequence[str | int]) -> str:
    name = ""
    for step in path:
        if isinstance(step, int):
            name += f"[{step}]"
        else:  # a name of the client's own is not repeated unless it is plain
            name += ("." if name else "") + (step if _SHOWN.fullmatch(step) else "(a name)")
    return name[:200]


def _shown(value: object) -> str:
    """A value as a message may repeat it: short and plain, or its kind alone."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) or abs(value) < 10**6 else "the number"
    if isinstance(value, str):
        return f'"{value}"' if _SHOWN.fullmatch(value) and ".." not in value and "/" not in value else "the string"
    return "a list" if isinstance(value, list) else "an object"


def _reason(error: Error, value: object) -> tuple[str, str]:
    """What is wrong, and the field within the part that it is about."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "", "missing"
    if kind == "literal_error":
        return "", f"{_shown(value)} is not one of {context['expected']}"
    if kind == "union_tag_invalid":
        field = str(context["discriminator"]).strip("'")
        found = value.get(field) if isinstance(value, Mapping) else None
        return field, f"{_shown(found)} is not one of {context['expected_tags']}"
    if kind == "union_tag_not_found":
        return str(context["discriminator"]).strip("'"), "missing"
    if kind in _LIMITS:
        words, limit = _LIMITS[kind]
        return "", f"{_shown(value)} is {words} {context[limit]:g}"
    if kind == "too_long":
        return "", f"{context['actual_length']} given; at most {context['max_length']}"
    if kind == "too_short":
        return "", f"{context['actual_length']} given; at least {context['min_length']}"
    if kind == "string_too_long":
        return "", f"{len(str(value))} characters; at most {context['max_length']}"
    if kind == "string_too_short":
        return "", f"{len(str(value))} characters; at least {context['min_length']}"
    if kind == "string_pattern_mismatch":
        return "", f"{_shown(value)} is not of the form {context['pattern']}"
    if kind == REFUSED:
        return "", f"{_shown(value)}: {error['msg']}"
    return "", f"{_shown(value)} is not a valid value"
