"""What lmms-eval's entry-point group ``lmms_eval.models`` loads: where the model's class is, and nothing heavier."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """The ``ModelManifest`` of ``--model emova``. Only lmms-eval calls this, so its modules are there."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="emova", chat_class_path="emova_eval.adapters.lmms_eval_model.Emova")
