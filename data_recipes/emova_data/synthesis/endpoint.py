"""Questions to any OpenAI-compatible chat endpoint, asked again while it is busy or answers with something else."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from emova.core.errors import InputError

AnswerT = TypeVar("AnswerT")
_REFUSED = (400, 401, 403, 404)
_LONGEST = 1 << 22  # bytes of an answer that are read


@dataclass(frozen=True)
class Endpoint:
    """A server.

    Attributes:
        address: such as ``http://127.0.0.1:8000/v1``.
        model: its name there.
        key_variable: environment variable that holds the key; an unset one sends none.
        attempts: requests before a question is given up; ``wait`` seconds before the second, twice as many before each
            further one.
        section: the settings that name the server, for messages.
    """

    address: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    attempts: int = 3
    wait: float = 1.0
    timeout: float = 60.0
    section: str = "endpoint"

    def __post_init__(self) -> None:
        if not self.address.startswith(("http://", "https://")):
            raise InputError(f"{self.section}.address {self.address[:60]!r}: an http address ending in /v1 is expected")

    def ask(self, prompt: str, read: Callable[[str], AnswerT | None]) -> AnswerT | None:
        """What ``read`` makes of the first answer that it can use; None where there is none.

        Raises:
            InputError: the server refuses the request.
        """
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.wait * 2 ** (attempt - 1))
            try:
                found = read(self._answer(prompt))
            except urllib.error.HTTPError as error:
                if error.code in _REFUSED:
                    raise InputError(
                        f"the endpoint of {self.section} answers {error.code}; check {self.section}.* and the key"
                    ) from None
                continue
            except (OSError, ValueError, KeyError, IndexError, TypeError):
                continue
            if found is not None:
                return found
        return None

    def _answer(self, prompt: str) -> str:
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.key_variable):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self.address.rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as reply:
            content = json.loads(reply.read(_LONGEST))["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError("an answer without text")
        return content
