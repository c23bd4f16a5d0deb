"""emova for VoiceBench, whose ``main.py`` asks a model for ``generate_audio``, ``generate_text`` or ``generate_ttft``.

In its ``src/models/__init__.py``::

    from emova_eval.adapters.voicebench import EmovaAssistant
    model_cls_mapping["emova"] = EmovaAssistant

then ``python main.py --model emova --data alpacaeval --modality audio``. It makes models without arguments, so the
checkpoint and the device are read from EMOVA_MODEL (emova-nano) and EMOVA_DEVICE (cpu). The class has the methods of
VoiceBench's ``VoiceAssistant`` and needs nothing of that repository.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from emova.core.errors import InputError
from emova_eval.adapters.messages import to_content


class EmovaAssistant:
    """A written answer to one spoken or written question.

    What the model cannot take (more than a minute of speech, silence) is answered by nothing, and said on stderr: it
    counts as wrong, and the others go on.
    """

    def __init__(self, model: str = "", device: str = "") -> None:
        from emova.assistant import Assistant

        name = model or os.environ.get("EMOVA_MODEL", "emova-nano")
        self.assistant = Assistant.from_pretrained(name, device=device or os.environ.get("EMOVA_DEVICE", "cpu"))

    def generate_audio(self, audio: Mapping[str, object], max_new_tokens: int = 2048) -> str:
        """The answer to ``audio``: ``array`` [T] with its ``sampling_rate``, as Hugging Face's datasets decode it."""
        return self._answer([{"type": "audio", "audio": audio}], max_new_tokens)

    def generate_text(self, text: str, max_new_tokens: int = 2048) -> str:
        """The answer to a written question."""
        return self._answer([{"type": "text", "text": text}], max_new_tokens)

    def generate_ttft(self, audio: Mapping[str, object]) -> float:
        """Seconds from the question to the first token of its answer."""
        started = time.perf_counter()
        self.generate_audio(audio, max_new_tokens=1)
        return time.perf_counter() - started

    def _answer(self, parts: list[dict[str, object]], limit: int) -> str:
        try:
            content = to_content(parts, self.assistant)
            return self.assistant.answer_text([{"role": "user", "content": content}], max_tokens=limit)
        except InputError as error:
            print(f"voicebench: {error}; no answer", file=sys.stderr)
            return ""
