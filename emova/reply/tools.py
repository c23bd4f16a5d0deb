"""Tools: what a model may call instead of answering, how they are told to it, and the grammar of a call.

No checkpoint has roles of its own for tools. Their list is part of the system message (``Toolbox.instructions``), and
what they gave comes in a system message of its own (``results_text``): text of a user or of a tool is a string inside
of it and can never stand for either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from emova.core.errors import InputError
from emova.reply.calls import BEFORE_ARGUMENTS, BEFORE_NAME
from emova.reply.grammar import Fixed, Fork, Segment, TokenTable
from emova.reply.schema import CLOSING, JsonValue, compile_schema

MOST_TOOLS = 32
MOST_CALLS = 4
"""Of one reply."""
TOOLS_HEADING = "Tools:"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ANYTHING: Mapping[str, object] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Args:
        name: letters, digits, ``_`` and ``-``, up to 64.
        description: what it is for.
        parameters: a JSON schema of its arguments, an object.
        place: how errors call it.

    Raises:
        InputError: the name is none, or the schema cannot be kept (the keyword is named).
    """

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=lambda: _ANYTHING)
    place: str = field(default="tool", compare=False)
    grammar: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(f"{self.place}.name: up to 64 letters, digits, _ and -")
        object.__setattr__(self, "grammar", compile_schema(self.parameters, f"{self.place}.parameters"))

    @property
    def line(self) -> str:
        """The tool as the model is told of it, one line of JSON."""
        told: dict[str, object] = {"name": self.name}
        if self.description:
            told["description"] = self.description
        return json.dumps({**told, "parameters": self.parameters}, ensure_ascii=False)


@dataclass(frozen=True)
class ToolResult:
    """What the tool ``name`` gave back for a call."""

    name: str
    content: str


@dataclass(frozen=True)
class Toolbox:
    """The tools of a conversation.

    Args:
        tools: those that there are.
        choice: ``auto`` leaves it to the model whether it calls, ``none`` forbids it, ``required`` asks for a call of
            any, ``named`` for one of ``name``.
        parallel: whether a reply may hold several calls.

    Raises:
        InputError: there are none, too many, two of one name, or the chosen one is not among them.
    """

    tools: tuple[Tool, ...]
    choice: str = "auto"
    name: str = ""
    parallel: bool = True

    def __post_init__(self) -> None:
        names = [tool.name for tool in self.tools]
        if not 1 <= len(names) <= MOST_TOOLS:
            raise InputError(f"tools: {len(names)} given; 1 to {MOST_TOOLS}")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"tools: {twice} is there twice")
        if self.choice == "named" and self.name not in names:
            raise InputError("tool_choice: no tool of this name is among the tools")
        assert self.choice in ("auto", "none", "required", "named")

    @classmethod
    def from_openai(
        cls, tools: Sequence[Mapping[str, object]], choice: object = None, parallel: bool = True
    ) -> Toolbox | None:
        """What chat's requests (``{"type": "function", "function": {...}}``) and Realtime's events (the same fields
        without ``function``) say of tools; None without any.

        Args:
            choice: ``"auto"``, ``"none"``, ``"required"``, or an object that names a function in either form.

        Raises:
            InputError: an entry is malformed or cannot be kept.
        """
        if not tools:
            if choice not in (None, "auto", "none"):
                raise InputError("tool_choice: there are no tools to choose from")
            return None
        name, word = "", choice or "auto"
        if isinstance(choice, Mapping):
            named = choice.get("function", choice)
            given = named.get("name") if isinstance(named, Mapping) else None
            name, word = given if isinstance(given, str) else "", "named"
        if word not in ("auto", "none", "required", "named") or (word == "named") != isinstance(choice, Mapping):
            raise InputError("tool_choice: auto, none, required, or the name of a function")
        return cls(tuple(_tool(each, index) for index, each in enumerate(tools)), str(word), name, parallel)

    def instructions(self, own: str = "") -> str:
        """A system message's text: ``own`` instructions, then one line of JSON for each tool."""
        return "\n".join(filter(None, (own, TOOLS_HEADING, *(tool.line for tool in self.tools))))

    @property
    def may_call(self) -> bool:
        """Whether a reply may be a call."""
        return self.choice != "none"

    @property
    def must_call(self) -> bool:
        """Whether a reply must be a call."""
        return self.choice in ("required", "named")

    # --- grammar ------------------------------------------------------------------------------------------------------
    def opening(self, table: TokenTable) -> list[int]:
        """The tokens with which calls begin."""
        return table.encode("[" + BEFORE_NAME)

    def calls(self, table: TokenTable, max_tokens: int, after: Sequence[int], number: int = 1) -> list[Segment]:
        """What comes behind ``opening``: the calls, and the tokens ``after`` them.

        Args:
            max_tokens: of all arguments together.
            number: which call this is.
        """
        chosen = [tool for tool in self.tools if self.choice != "named" or tool.name == self.name]
        names = [
            ([*table.encode(tool.name), table.quote], partial(self._arguments, tool, table, max_tokens, after, number))
            for tool in chosen
        ]
        return [Fork(names)]

    def _arguments(
        self, tool: Tool, table: TokenTable, max_tokens: int, after: Sequence[int], number: int
    ) -> list[Segment]:
        value, end = JsonValue(table, tool.grammar, max_tokens), [*table.encode("]"), *after]

        def another() -> list[Segment]:
            return self.calls(table, value.left, after, number + 1)

        def behind() -> list[Segment]:
            if not self.parallel or self.choice == "named" or number == MOST_CALLS or not value.left:
                return [Fixed(end)]
            return [Fork([(end, list), (table.encode(", " + BEFORE_NAME), another)])]

        return [Fixed(table.encode(BEFORE_ARGUMENTS)), value, Fork([(table.encode("}"), behind)])]

    def overhead(self, table: TokenTable, after: Sequence[int]) -> int:
        """How many tokens calls have at most beside the arguments' limit."""
        names = max(len(table.encode(tool.name)) for tool in self.tools) + 1
        between = len(table.encode(", " + BEFORE_NAME)) + len(table.encode(BEFORE_ARGUMENTS)) + len(table.encode("}"))
        calls = MOST_CALLS if self.parallel else 1
        return calls * (names + between) + CLOSING + len(self.opening(table)) + len(table.encode("]")) + len(after)


def _tool(given: Mapping[str, object], index: int) -> Tool:
    place = f"tools[{index}]"
    if given.get("type", "function") != "function":
        raise InputError(f'{place}.type: "function" is the only one')
    if "function" in given:
        inner, place = given["function"], f"{place}.function"
    else:
        inner = given
    if not isinstance(inner, Mapping):
        raise InputError(f"{place}: not an object")
    name, description, parameters = (inner.get(key) for key in ("name", "description", "parameters"))
    if not isinstance(name, str):
        raise InputError(f"{place}.name: missing; up to 64 letters, digits, _ and -")
    if not isinstance(description, str | None):
        raise InputError(f"{place}.description: not a string")
    if not isinstance(parameters, Mapping | None):
        raise InputError(f"{place}.parameters: not an object; give a JSON schema")
    return Tool(name, description or "", parameters or _ANYTHING, place)


def results_text(results: Sequence[ToolResult]) -> str:
    """What tools gave back, one line of JSON each, as it stands in a system message."""
    lines = ({"tool": result.name, "result": result.content} for result in results)
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
