"""A chat model behind an OpenAI-compatible address: retries, throttling, and a cache on disk.

The key is read from an environment variable when a question is sent; it is never written anywhere.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emova.core.errors import InputError
from emova.core.writing import write_text
from emova_eval.suite.run_folder import UNREACHED

MAX_ANSWER_BYTES = 4 << 20


class EndpointError(RuntimeError):
    """The endpoint gave no usable answer after all retries."""


@dataclass(frozen=True)
class EndpointConfig:
    """Where a judge lives.

    Args:
        url: the base, e.g. ``http://127.0.0.1:8000/v1``; ``/chat/completions`` is added.
        model: the name the endpoint knows.
        key_variable: the environment variable with the key; empty for none.
        cache: a folder for answers; empty keeps none.
        timeout: seconds for one request.
        retries: how often a failed request is sent again.
        wait: seconds before the first retry; doubles each time, unless the endpoint says how long.
        interval: least seconds between two requests.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    cache: str = ""
    timeout: float = 60.0
    retries: int = 4
    wait: float = 1.0
    interval: float = 0.0


class Endpoint:
    """Asks a chat model; see ``EndpointConfig``. ``sleep`` is handed in by tests."""

    def __init__(self, config: EndpointConfig, sleep: Callable[[float], object] = time.sleep) -> None:
        if not config.url.startswith(("http://", "https://")):
            raise InputError("judge: the address must begin with http:// or https://")
        self.config = config
        self.sleep = sleep
        self.requests = 0
        self._last = 0.0

    def ask(self, messages: list[dict[str, object]], vote: int = 0, temperature: float = 0.0) -> str:
        """The model's words.

        Args:
            vote: which of several answers to one question; each has its own place in the cache, and its own seed.

        Raises:
            EndpointError: no usable answer after all retries.
        """
        body = {"model": self.config.model, "messages": messages, "temperature": temperature, "seed": vote}
        name = hashlib.sha256(json.dumps([self.config.url, body], sort_keys=True).encode()).hexdigest()
        cached = Path(self.config.cache) / f"{name}.json" if self.config.cache else None
        if cached and cached.is_file():
            try:
                return str(json.loads(cached.read_text(encoding="utf-8"))["answer"])
            except (json.JSONDecodeError, KeyError, TypeError):
                cached.unlink()  # half-written by a kill
        answer = self._send_until_answered(json.dumps(body).encode())
        if cached:
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_text(cached, json.dumps({"answer": answer}, ensure_ascii=False))
        return answer

    def _send_until_answered(self, body: bytes) -> str:
        reason = ""
        for attempt in range(self.config.retries + 1):
            pause = self.config.wait * 2 ** max(attempt - 1, 0) if attempt else 0.0
            try:
                if attempt:
                    self.sleep(max(pause, self._asked_to_wait))
                return self._send(body)
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}"
                self._asked_to_wait = _seconds(error.headers.get("Retry-After"))
                if error.code not in (408, 409, 425, 429) and error.code < 500:
                    break  # the request itself is refused; sending it again changes nothing
            except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                reason = type(error).__name__
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError):
                reason = "an answer that is not a whole chat completion"
        raise EndpointError(f"{UNREACHED} ({reason})")

    _asked_to_wait = 0.0

    def _send(self, body: bytes) -> str:
        now = time.monotonic()
        if (early := self._last + self.config.interval - now) > 0:
            self.sleep(early)
        self._last = time.monotonic()
        self._asked_to_wait = 0.0
        self.requests += 1
        headers = {"Content-Type": "application/json"}
        if self.config.key_variable and (key := os.environ.get(self.config.key_variable)):
            headers["Authorization"] = f"Bearer {key}"
        url = self.config.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=self.config.timeout) as response:
            data = response.read(MAX_ANSWER_BYTES)
        content = json.loads(data.decode("utf-8"))["choices"][0]["message"]["content"]
        if not isinstance(content, str):
            raise TypeError
        return content


def _seconds(header: str | None) -> float:
    try:
        return min(max(float(header or 0), 0.0), 120.0)
    except ValueError:
        return 0.0
