"""Every tensor by both of its names: a module of ours filled from a release, and the release made of it again.

Weights that a release keeps as direction and length (weight normalisation, Salimans & Kingma 2016) are multiplied out.
Taken apart again, their length is that of the product, so that import, export, import gives the same bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from emova.checkpoint.importing.source import Prefixed, Shape, Tensors
from emova.core.errors import InputError
from emova.core.io import shown

ModuleT = TypeVar("ModuleT", bound=nn.Module)
PARTIAL = "the release is partial or another one"
Form = Literal["convolution", "batch"]
"""How a matrix of ours lies in a release: ``[O, I, 1]``, the kernel of a convolution over one frame; ``[1, ...]``."""


@dataclass(frozen=True)
class Names:
    """How a module's tensors are called in a release.

    Attributes:
        part: how errors call the module.
        rename: regular expressions on our names and what they become, one after another.
        normed: expressions on our names of weights that the release keeps as direction and length, and the dimension
            that has a length for each index.
        forms: expressions on our names and the form in the release.
        joined: what stands for several words in one name, and the words: matrices that we have as one, rows on rows.
        absent: expressions on names of the release that it may lack, and which then are zeros.
        zeros: expressions on our names of what the release does not have and adds nothing as zeros.
        unused: expressions on the release's names of what we have no use for, and why.
    """

    part: str
    rename: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
    normed: tuple[tuple[str, int], ...] = ()
    forms: tuple[tuple[str, Form], ...] = ()
    joined: tuple[str, tuple[str, ...]] | None = None
    absent: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    unused: tuple[tuple[str, str], ...] = ()

    def official(self, ours: str) -> str:
        """Our name in the release."""
        for pattern, replacement in self.rename:
            ours = re.sub(pattern, replacement, ours)
        return ours

    def norm_dimension(self, ours: str) -> int | None:
        """Which dimension of a weight has lengths in the release; None if it is kept as one."""
        return next((dim for pattern, dim in self.normed if re.search(pattern, ours)), None)

    def form(self, ours: str) -> Form | None:
        """The form of a tensor in the release, if it differs."""
        return next((form for pattern, form in self.forms if re.search(pattern, ours)), None)

    def is_zero(self, ours: str) -> bool:
        """Whether the release does not have it."""
        return any(re.search(pattern, ours) for pattern in self.zeros)

    def is_absent(self, official: str) -> bool:
        """Whether a tensor of the release may be missing."""
        return any(re.search(pattern, official) for pattern in self.absent)

    def parts(self, official: str) -> list[str]:
        """The release's tensors that are one of ours."""
        if self.joined is None or self.joined[0] not in official:
            return [official]
        return [official.replace(self.joined[0], word) for word in self.joined[1]]

    def why_unused(self, official: str) -> str | None:
        """Why a tensor of the release is not taken; None if it is."""
        return next((why for pattern, why in self.unused if re.match(pattern, official)), None)


@dataclass
class Report:
    """What became of a release's tensors.

    Attributes:
        mapped: for each part, how many of the release's tensors it took.
        unused: what was not taken, and why.
    """

    mapped: dict[str, int] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        found = [f"{part}: {count} tensors" for part, count in self.mapped.items()]
        for why in dict.fromkeys(self.unused.values()):
            names = [name for name, reason in self.unused.items() if reason == why]
            found.append(f"not used: {len(names)} tensors, {why} ({names[0]}{', ...' if len(names) > 1 else ''})")
        return found


def length(tensor: Tensor, dim: int) -> Tensor:
    """The Euclidean norm for each index of a dimension, the others of size 1."""
    others = [index for index in range(tensor.dim()) if index != dim]
    return torch.linalg.vector_norm(tensor, dim=others, keepdim=True)


def join(direction: Tensor, lengths: Tensor, dim: int) -> Tensor:
    """The weight of a direction and lengths; a direction of nothing stays nothing."""
    own = length(direction, dim)
    return direction * torch.where(own > 0, lengths / own, 0.0)


def take(names: Names, module: nn.Module, tensors: Tensors | Prefixed, report: Report) -> dict[str, Tensor]:
    """The state of ``module``, which may be on the meta device, float32, out of a release.

    Raises:
        InputError: a tensor is missing, has another shape, or is none of those that are known.
    """
    state: dict[str, Tensor] = {}
    taken: set[str] = set()

    def get(official: str, expected: Shape) -> Tensor:
        if official not in tensors:
            raise InputError(f"{tensors.name}: lacks tensor {tensors.prefix}{official} of the {names.part}; {PARTIAL}")
        if tensors.shapes[official] != expected:
            raise InputError(
                f"{tensors.name}: tensor {tensors.prefix}{official} has shape {list(tensors.shapes[official])}, not "
                f"{list(expected)}; it is of another release"
            )
        taken.add(official)
        return tensors[official].to(torch.float32)

    def whole(official: str, shape: Shape, dim: int | None) -> Tensor:
        if official not in tensors and names.is_absent(official):
            return torch.zeros(shape)
        if dim is None or official in tensors:
            return get(official, shape)
        lengths, direction = _halves(official, tensors)
        small = tuple(size if index == dim else 1 for index, size in enumerate(shape))
        return join(get(direction, shape), get(lengths, small), dim)

    for ours, own in module.state_dict().items():
        if names.is_zero(ours):
            state[ours] = torch.zeros(own.shape)
            continue
        official, shape = names.official(ours), _shape(names.form(ours), tuple(own.shape))
        parts = names.parts(official)
        part_shape = (shape[0] // len(parts), *shape[1:]) if shape else shape
        values = [whole(part, part_shape, names.norm_dimension(ours)) for part in parts]
        value = torch.cat(values) if len(values) > 1 else values[0]
        if not torch.isfinite(value).all():
            raise InputError(
                f"{tensors.name}: tensor {tensors.prefix}{official} holds what is no number; fetch the release again"
            )
        state[ours] = value.reshape(own.shape).contiguous()
    for official in tensors:
        if official in taken:
            continue
        why = names.why_unused(official)
        if why is None:
            raise InputError(
                f"{tensors.name}: tensor {shown(tensors.prefix + official)} is none that the {names.part} is known to "
                "have; it is of another or a later release"
            )
        report.unused[tensors.prefix + official] = why
    report.mapped[names.part] = len(taken)
    return state


def give(names: Names, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The release's tensors out of a module's state; the inverse of ``take`` but for what is unused."""
    tensors: dict[str, Tensor] = {}
    for ours, value in state.items():
        if names.is_zero(ours):
            continue
        parts = names.parts(names.official(ours))
        value = value.reshape(_shape(names.form(ours), tuple(value.shape)))
        dim = names.norm_dimension(ours)
        for official, rows in zip(parts, value.chunk(len(parts)) if len(parts) > 1 else [value], strict=True):
            if names.is_absent(official):
                continue
            if dim is None:
                tensors[official] = rows.contiguous()
            else:
                tensors[f"{official}_v"] = rows.contiguous()
                tensors[f"{official}_g"] = length(rows, dim).contiguous()
    return tensors


def _halves(official: str, tensors: Tensors | Prefixed) -> tuple[str, str]:
    """The names of the lengths and of the direction, by the older way to save them or the newer one."""
    above, _, leaf = official.rpartition(".")
    newer = f"{above}.parametrizations.{leaf}.original"
    return (f"{newer}0", f"{newer}1") if f"{newer}0" in tensors else (f"{official}_g", f"{official}_v")


def _shape(form: Form | None, own: Shape) -> Shape:
    if form == "convolution":
        return (*own, 1)
    return (1, *own) if form == "batch" else own


def filled(build: Callable[[], ModuleT], names: Names, tensors: Tensors | Prefixed, report: Report) -> ModuleT:
    """A module of a release's weights, ready for inference. Raises: InputError: see ``take``."""
    with torch.device("meta"):
        module = build()
    module.load_state_dict(take(names, module, tensors, report), assign=True)
    return module.eval()


def shape_of(tensors: Tensors | Prefixed, pattern: str) -> Shape:
    """The shape of the tensor whose name fits a regular expression. Raises: InputError: there is none."""
    found = next((shape for name, shape in tensors.shapes.items() if re.fullmatch(pattern, name)), None)
    if found is None:
        plain = re.sub(r"\\|\(.*\)\??", "", pattern)
        raise InputError(f"{tensors.name}: lacks tensor {tensors.prefix}{plain}; {PARTIAL}")
    return found


def count(tensors: Tensors | Prefixed, pattern: str) -> int:
    """How many different words stand in the names at the pattern's group."""
    return len({match[1] for match in (re.match(pattern, name) for name in tensors) if match})
