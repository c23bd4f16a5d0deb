"""transformers' Auto classes know emova's from ``import emova`` on, which imports neither transformers nor torch.

transformers asks its registers by name when a folder is loaded. Once it has made one of them, a stand-in is put there,
which turns into the class of ``emova.model`` when it is first asked for anything; importing that package registers
the classes themselves. Only transformers' public ways of registering are used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _StandIn(type):
    """The type of a class that is not imported yet."""

    def __getattr__(cls, name: str) -> object:
        return getattr(getattr(importlib.import_module("emova.model"), cls.__name__), name)

    def __call__(cls, *arguments: object, **options: object) -> object:
        return getattr(importlib.import_module("emova.model"), cls.__name__)(*arguments, **options)


def _stand_in(name: str) -> _StandIn:
    return _StandIn(name, (), {"__module__": "emova.model"})


_CONFIG = _stand_in("EmovaConfig")


def _configs(auto: ModuleType) -> None:
    auto.AutoConfig.register("emova", _CONFIG, exist_ok=True)


def _processors(auto: ModuleType) -> None:
    auto.AutoProcessor.register(_CONFIG, _stand_in("EmovaProcessor"), exist_ok=True)


def _image_processors(auto: ModuleType) -> None:
    classes = dict.fromkeys(("pil", "torchvision"), _stand_in("EmovaImageProcessor"))  # there is one for both
    auto.IMAGE_PROCESSOR_MAPPING.register(_CONFIG, classes, exist_ok=True)


_REGISTERS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _configs,
    "transformers.models.auto.processing_auto": _processors,
    "transformers.models.auto.image_processing_auto": _image_processors,
}


class _Finished(Loader):
    """Loads as ``loader`` does, then calls ``then`` with the module."""

    def __init__(self, loader: Loader, then: Callable[[ModuleType], None]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader  # who asks the module finds it as it always is
        self._loader.exec_module(module)
        self._then(module)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        then = _REGISTERS.get(fullname)
        spec = PathFinder.find_spec(fullname, path, target) if then is not None else None
        if then is not None and spec is not None and spec.loader is not None:
            spec.loader = _Finished(spec.loader, then)
        return spec


def introduce() -> None:
    """Register with the Auto classes that are imported already, and with the others once they are."""
    if "emova.model" in sys.modules or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    for name, register in _REGISTERS.items():
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            register(module)
    sys.meta_path.insert(0, _Finder())
