"""emova for UltraEval-Audio, which makes a model from a registry file and asks it for ``inference``.

A file in its ``registry/model/``::

    emova:                    # answers in writing
      class: emova_eval.adapters.ultraeval_audio.EmovaAudio
      args: {path: emova-nano}
    emova-asr:                # for recognition: a transcript, whatever words ask for it
      class: emova_eval.adapters.ultraeval_audio.EmovaAudio
      args: {path: emova-nano, transcribe: true}
    emova-speech:             # answers aloud, and reads aloud
      class: emova_eval.adapters.ultraeval_audio.EmovaAudio
      args: {path: emova-nano, speech: true}

then ``python audio_evals/main.py --dataset llama-questions --model emova-speech``. The class has the methods of its
``Model`` and needs nothing of that repository.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from emova.core.errors import InputError
from emova.events import Reply, Speech
from emova_eval.adapters.messages import to_content

Prompt = str | Mapping[str, str] | Sequence[Mapping[str, object]]
"""A text; ``{"text": …}`` to be read aloud; or turns: ``role`` and ``contents``, parts of ``type`` and ``value``."""


class EmovaAudio:
    """One prompt at a time.

    Args:
        path: a checkpoint's name or folder.
        speech: answer aloud: JSON with ``text`` and ``audio``, the path of a WAV file.
        transcribe: answer a recording by its transcript.
        sample_params: ``max_new_tokens``.
        output: where the WAV files go; a temporary folder where none is named.
    """

    is_chat = True

    def __init__(
        self, path: str = "emova-nano", speech: bool = False, transcribe: bool = False, device: str = "cpu",
        sample_params: Mapping[str, int] | None = None, output: str = "",
    ) -> None:  # fmt: skip
        from emova.assistant import Assistant

        self.assistant = Assistant.from_pretrained(path, device=device)
        self.speech, self.transcribe = speech, transcribe
        self.sample_params = dict(sample_params or {})
        self._folder = Path(output or tempfile.mkdtemp(prefix="emova-ultraeval-"))
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock, self._said = threading.Lock(), 0

    def inference(self, prompt: Prompt, **sample_params: int) -> str:
        """The answer to ``prompt``; where it is spoken JSON with its text and file, where it is read aloud the file.

        Raises:
            InputError: the model cannot take the prompt; UltraEval-Audio counts that as a failure and goes on.
        """
        with self._lock:
            if isinstance(prompt, Mapping):
                return self._read_aloud(prompt)
            turns = [{"role": "user", "contents": prompt}] if isinstance(prompt, str) else prompt
            if self.transcribe:
                return self.assistant.transcribe(_last(turns, "audio"))
            if self.speech:
                return self._reply(turns)
            limit = {**self.sample_params, **sample_params}.get("max_new_tokens")
            messages = [{"role": turn["role"], "content": self._content(turn)} for turn in turns]
            return self.assistant.answer_text(messages, max_tokens=limit)

    def _content(self, turn: Mapping[str, object]) -> list[dict[str, object]]:
        contents = turn["contents"]
        assert isinstance(contents, (str, list))
        return to_content(contents, self.assistant)

    def _read_aloud(self, prompt: Mapping[str, str]) -> str:
        if prompt.get("prompt_audio"):
            raise InputError("a voice cannot be cloned from a recording; use the prompt `tts`, which has a text alone")
        return str(self._save(self.assistant.speak(prompt["text"])))

    def _reply(self, turns: Sequence[Mapping[str, object]]) -> str:
        audio, text, image = (_last(turns, kind, "") or None for kind in ("audio", "text", "image"))
        # A spoken question is its own instruction.
        reply = self.assistant.chat(audio=audio, text=None if audio else text, image=image)
        return json.dumps({"audio": str(self._save(reply)), "text": reply.text}, ensure_ascii=False)

    def _save(self, sound: Speech | Reply) -> Path:
        self._said += 1
        path = self._folder / f"{self._said:06d}.wav"
        sound.save(path)
        return path


def _last(turns: Sequence[Mapping[str, object]], kind: str, default: str | None = None) -> str:
    """The value of the last part of a kind that the user gave. Raises: InputError: there is none, and no default."""
    for turn in reversed(turns):
        contents = turn["contents"]
        parts = [{"type": "text", "value": contents}] if isinstance(contents, str) else contents
        assert isinstance(parts, list)
        for part in reversed(parts):
            if turn["role"] == "user" and part["type"] == kind:
                return str(part["value"])
    if default is None:
        raise InputError(f"the prompt has no {kind}; use one that has")
    return default
