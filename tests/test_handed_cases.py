"""Each file that was handed in as a case of something that failed is used by a test that names it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CASES = TESTS / "fixtures" / "cases"


@cache
def named() -> set[str]:
    """The strings of all tests but this one."""
    found = set()
    for path in TESTS.rglob("*.py"):
        if path != Path(__file__):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found |= {each.value for each in nodes if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    return found


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_every_case_has_its_test(case: str) -> None:
    assert any(case in text for text in named()), case
