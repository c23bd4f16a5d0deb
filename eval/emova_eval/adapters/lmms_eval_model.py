"""emova as an lmms-eval chat model: ``python -m lmms_eval --model emova --model_args pretrained=emova-nano --tasks …``.

Only lmms-eval imports this module, through ``emova_eval.adapters.lmms_eval_manifest``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmms_eval.api.model import lmms

from emova.core.errors import InputError
from emova_eval.adapters.messages import cut_at, to_content, with_plain_audio

if TYPE_CHECKING:
    from lmms_eval.api.instance import Instance


class Emova(lmms):
    """A chat model that answers one request after the other on one device."""

    is_simple = False

    def __init__(
        self, pretrained: str = "emova-nano", device: str = "cpu", batch_size: int | str = 1, max_new_tokens: int = 256
    ) -> None:
        super().__init__()
        from emova.assistant import Assistant

        self.assistant = Assistant.from_pretrained(pretrained, device=device)
        self.max_new_tokens = int(max_new_tokens)
        self.batch_size_per_gpu = int(batch_size)
        self._rank, self._world_size = 0, 1

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """A written answer to each request, cut at the task's stop words.

        What the model cannot take (a recording that is too long, a film) is answered by nothing, and said on stderr:
        it counts as wrong, and the others go on.
        """
        answers = []
        for request in requests:
            _, doc_to_messages, settings, doc_id, task, split = request.args
            messages = doc_to_messages(with_plain_audio(self.task_dict[task][split][doc_id]))
            try:
                answers.append(self.answer(messages, settings))
            except InputError as error:
                print(f"{task} {doc_id}: {error}; no answer", file=sys.stderr)
                answers.append("")
        return answers

    def answer(self, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> str:
        """One conversation's answer."""
        turns = [{"role": turn["role"], "content": to_content(turn["content"], self.assistant)} for turn in messages]
        limit = min(int(settings.get("max_new_tokens") or self.max_new_tokens), self.max_new_tokens)
        return cut_at(self.assistant.answer_text(turns, max_tokens=limit), settings.get("until"))

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: a chat model is asked to generate."""
        raise NotImplementedError("emova answers by generation; choose a task with generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("emova is asked one question at a time here")
