"""The model in transformers' conventions; importing this package registers it with the Auto classes."""

from __future__ import annotations

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from emova.core.tokens import TokenIds
from emova.model.configuration_emova import EmovaConfig
from emova.model.image_processing_emova import EmovaImageProcessor
from emova.model.modeling_emova import EmovaForConditionalGeneration, EmovaModel
from emova.model.processing_emova import EmovaProcessor, Rendered

AutoConfig.register("emova", EmovaConfig, exist_ok=True)
AutoModel.register(EmovaConfig, EmovaModel, exist_ok=True)
AutoModelForCausalLM.register(EmovaConfig, EmovaForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(EmovaConfig, EmovaForConditionalGeneration, exist_ok=True)
AutoModelForMultimodalLM.register(EmovaConfig, EmovaForConditionalGeneration, exist_ok=True)
AutoImageProcessor.register(
    EmovaConfig, image_processor_classes=dict.fromkeys(("pil", "torchvision"), EmovaImageProcessor), exist_ok=True
)
AutoProcessor.register(EmovaConfig, EmovaProcessor, exist_ok=True)

__all__ = [
    "EmovaConfig",
    "EmovaForConditionalGeneration",
    "EmovaImageProcessor",
    "EmovaModel",
    "EmovaProcessor",
    "Rendered",
    "TokenIds",
]
