"""Laws of the source tree: imports run one way and never in a ring, rooms stay small, weights are never unpickled."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "emova": ROOT / "emova",
    "emova_train": ROOT / "train/emova_train",
    "emova_eval": ROOT / "eval/emova_eval",
    "emova_data": ROOT / "data_recipes/emova_data",
    "emova_app": ROOT / "app/emova_app",
    "emova_bench": ROOT / "benchmarks/emova_bench",
    "emova_configs": ROOT / "configs",
    "emova_torch": ROOT / "emova_torch",
}
MAY_IMPORT = {
    "emova": set(),
    "emova_train": {"emova", "emova_data"},
    "emova_eval": {"emova", "emova_data"},
    "emova_data": {"emova"},
    "emova_app": {"emova"},
    "emova_bench": {"emova", "emova_train", "emova_eval", "emova_data"},
    "emova_configs": set(),
    "emova_torch": set(),
}
"""The whole matrix: what each package may import of the others, in functions and for types alone too."""
LOWEST = {"emova.core": {"emova.core"}, "emova.native": {"emova.core", "emova.native"}}
"""Rooms of the library that every other stands on."""
MOST_FILES, MOST_LINES = 20, 500
DOCUMENTS = {"README.md": 130, "emova/checkpoints/emova-nano/README.md": 80}


def module_name(package: str, path: Path) -> str:
    parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
    return ".".join([package, *parts]).removesuffix(".__init__")


MODULES = {module_name(package, path): path for package, root in PACKAGES.items() for path in root.rglob("*.py")}
SOURCES = sorted(MODULES.values())
CODE = sorted({*SOURCES, *(ROOT / "tests").rglob("*.py"), ROOT / "setup.py"})


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """The modules that ``module`` imports anywhere in its file, under ``TYPE_CHECKING`` and in functions too."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


def rings(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The strongly connected sets of more than one (Tarjan 1972), and what points to itself."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(at: str) -> None:
        index[at] = low[at] = len(index)
        stack.append(at)
        for to in graph[at]:
            if to not in index:
                visit(to)
            if to in stack:
                low[at] = min(low[at], low[to])
        if low[at] == index[at]:
            ring = set(stack[stack.index(at) :])
            del stack[stack.index(at) :]
            if len(ring) > 1 or at in graph[at]:
                found.append(ring)

    for module in graph:
        if module not in index:
            visit(module)
    return found


def test_rings_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "e"}, "c": {"a", "d"}, "d": set(), "e": {"f"}, "f": {"e"}, "g": {"g", "a"}}
    assert sorted(map(sorted, rings(graph))) == [["a", "b", "c"], ["e", "f"], ["g"]]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    for module in MODULES:
        if module.split(".")[0] == package:
            others = {name.split(".")[0] for name in imports(module)} & {*PACKAGES, "tests", "conftest"} - {package}
            assert others <= MAY_IMPORT[package], f"{module} imports {', '.join(sorted(others - MAY_IMPORT[package]))}"


@pytest.mark.parametrize("room", LOWEST)
def test_the_lowest_rooms_stand_on_nothing_else(room: str) -> None:
    for module in MODULES:
        if f"{module}.".startswith(f"{room}."):
            own = {".".join(name.split(".")[:2]) for name in imports(module) if name.split(".")[0] == "emova"}
            assert own - {"emova"} <= LOWEST[room], module


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: set(imports(module)) & set(MODULES) for module in MODULES}
    assert not [sorted(ring) for ring in rings(graph)]


def test_no_folder_is_crowded() -> None:
    files = Counter(path.parent for path in CODE if not path.is_relative_to(ROOT / "tests"))
    assert not {str(folder): count for folder, count in files.items() if count > MOST_FILES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_do_one_thing(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_are_short(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= DOCUMENTS[name]


READS_FOREIGN_PICKLES = {"emova/checkpoint/importing/source.py"}
"""Where releases are read; as tensors alone, which unpickles nothing else."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_foreign_file_is_unpickled_or_evaluated(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "torch.load" and path.relative_to(ROOT).as_posix() in READS_FOREIGN_PICKLES:
                safe = [word.value for word in node.keywords if word.arg == "weights_only"]
                assert [isinstance(value, ast.Constant) and value.value is True for value in safe] == [True]
                continue
            assert called not in {"torch.load", "pickle.load", "pickle.loads", "eval", "exec"}, called


# These write in a way of their own: into a folder that appears as a whole, a download that goes on where it ended, an
# upload that lives for a moment.
OWN_WAYS = {
    "app/emova_app/demo/uploads/files.py",
    "data_recipes/emova_data/sources/download.py",
    "emova/native/build.py",
    "emova/core/writing.py",
    "train/emova_train/export/assemble.py",
    "train/emova_train/core/checkpointing.py",
    "train/emova_train/distributed/fsdp.py",
    "train/emova_train/data/stream.py",
}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.relative_to(ROOT).as_posix() not in OWN_WAYS], ids=str)
def test_files_are_written_whole_or_not_at_all(path: Path) -> None:
    """By ``emova/core/writing.py``, and by nothing else."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in {"write_text", "write_bytes"}, ast.unparse(node)
            assert ast.unparse(node.func) not in {"os.replace", "os.rename", "shutil.move"}, ast.unparse(node)
            modes = [each.value for each in node.args[:1] if isinstance(each, ast.Constant)]
            assert node.func.attr != "open" or not {"w", "wb", "x", "xb"} & set(modes), ast.unparse(node)
