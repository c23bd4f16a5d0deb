"""What the documents show is true: names exist, links lead somewhere, sizes hold, figures agree."""

from __future__ import annotations

import re

import pytest

from tests.documents import DOCUMENTS, ROOT, blocks


def test_python_examples_compile_and_their_names_exist() -> None:
    import emova

    for path, body in blocks("python"):
        compile(body, str(path), "exec")
        for names in re.findall(r"from emova import (.+)", body):
            for name in names.split(","):
                assert hasattr(emova, name.strip())


@pytest.mark.parametrize("path", [*DOCUMENTS, *sorted((ROOT / "docs").glob("*/*.md"))], ids=str)
def test_links_lead_somewhere(path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"


@pytest.mark.parametrize(("name", "most"), [("README.md", 130), ("emova/checkpoints/emova-nano/README.md", 80)])
def test_what_is_read_first_is_short(name: str, most: int) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most


def test_the_readmes_six_figures_are_those_of_the_evaluation() -> None:
    table = (ROOT / "docs" / "figures" / "beyond-the-recipe.md").read_text(encoding="utf-8")
    figures = re.findall(r"^\| .+ \| ([\d.]+)(?: %| s)? \|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert len(figures) == 6
    for figure in figures:
        assert re.search(rf"\| {re.escape(figure)}[ |]", table), figure
