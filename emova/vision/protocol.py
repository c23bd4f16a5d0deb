"""What the rest of the code knows of a vision tower and of a projector. Both are torch modules.

Shape letters: B tiles, P = p * p patches, S = s * s tokens, E width of the tower, D width of the language model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn


class TowerConfig(Protocol):
    """A tower's shape: a frozen dataclass."""

    @property
    def image_size(self) -> int:
        """Side of a tile in pixels."""
        ...

    @property
    def width(self) -> int:
        """E."""
        ...

    @property
    def side(self) -> int:
        """p, patches a side of a tile."""
        ...


class ProjectorConfig(Protocol):
    """A projector's shape: a frozen dataclass. Further fields are the kind's own.

    Attributes:
        kind: the name that the class is registered by.
        input_width, output_width: E and D.
        input_side, output_side: p and s.
    """

    @property
    def kind(self) -> str: ...

    @property
    def input_width(self) -> int: ...

    @property
    def output_width(self) -> int: ...

    @property
    def input_side(self) -> int: ...

    @property
    def output_side(self) -> int: ...


class _Module(Protocol):
    """What is used of ``torch.nn.Module``."""

    def eval(self) -> Self: ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Tensor]: ...

    # What torch returns here has no public name.
    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> object: ...


class VisionTower(_Module, Protocol):
    """Tiles to patch features; built as ``Tower(config)``, with random weights.

    Attributes:
        config_class: a frozen dataclass, see ``TowerConfig``.
        width, side: E and p.
    """

    config_class: ClassVar[type]
    width: int
    side: int

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks, first to last; stage 2 trains the deeper half (EMOVA §4)."""
        ...

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations anew in the backward pass, or not."""
        ...

    def __call__(self, pixels: Tensor, /) -> Tensor:
        """Normalised ``[B, 3, image_size, image_size]`` to ``[B, P, E]``, without a class token."""
        ...


@runtime_checkable
class NativeTower(Protocol):
    """A ``VisionTower`` for pictures of any shape: it is called with their patches and grids.

    Its tokens need no ``arrange``: they come picture by picture, row by row, as many as ``rows * columns``.
    """

    def blank(self) -> tuple[Tensor, Tensor]:
        """Patches and grid of the smallest picture."""
        ...

    def __call__(self, patches: Tensor, grids: Tensor, /) -> Tensor:
        """Patches of all pictures, and ``[pictures, 2]`` rows and columns, to ``[V, E]``."""
        ...


class Projector(_Module, Protocol):
    """Patch features to visual tokens; built as ``Projector(config)``, with random weights.

    Attributes:
        config_class: a frozen dataclass, see ``ProjectorConfig``.
    """

    config_class: ClassVar[type]

    def __call__(self, patches: Tensor, /) -> Tensor:
        """``[B, P, E]`` to ``[B, S, D]``, row by row."""
        ...

    def scale_output(self, factor: float) -> None:
        """Make all visual tokens ``factor`` times as large."""
        ...
