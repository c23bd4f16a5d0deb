"""emova for VLMEvalKit, which asks a model for ``generate`` with a list of pictures and texts.

In its ``vlmeval/config.py``::

    from functools import partial
    from emova_eval.adapters.vlmevalkit import EmovaVLM
    supported_VLM["emova-nano"] = partial(EmovaVLM, model_path="emova-nano")

The class has the methods that VLMEvalKit's ``BaseModel`` gives its children, so it needs nothing of that package.
"""

from __future__ import annotations

from collections.abc import Callable

from emova_eval.adapters.messages import to_content


class EmovaVLM:
    """One question at a time, pictures and text in their order."""

    INTERLEAVE = True
    INSTALL_REQ = False
    allowed_types = ("text", "image")
    is_api = False

    def __init__(self, model_path: str = "emova-nano", device: str = "cpu", max_new_tokens: int = 256) -> None:
        from emova.assistant import Assistant

        self.assistant = Assistant.from_pretrained(model_path, device=device)
        self.max_new_tokens = max_new_tokens
        self.dump_image_func: Callable[..., object] | None = None

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """The toolkit's own prompts are used."""
        return False

    def set_dump_image(self, dump_image_func: Callable[..., object]) -> None:
        """How the toolkit writes a row's pictures to files."""
        self.dump_image_func = dump_image_func

    def generate(self, message: str | list[str | dict[str, str]], dataset: str | None = None) -> str:
        """A written answer to a text, or to a list of texts, paths of pictures, and parts."""
        if isinstance(message, str):
            return self.generate_inner([{"type": "text", "value": message}], dataset)
        return self.generate_inner([part if isinstance(part, dict) else _part(part) for part in message], dataset)

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """A written answer to parts ``{"type": "image" | "text", "value": …}``."""
        content = to_content(message, self.assistant)
        return self.assistant.answer_text([{"role": "user", "content": content}], max_tokens=self.max_new_tokens)


def _part(text: str) -> dict[str, str]:
    is_picture = text.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"))
    return {"type": "image" if is_picture else "text", "value": text}
