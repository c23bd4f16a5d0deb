"""The language model in vLLM, out of process: in a Python environment of its own, on a GPU or a CPU.

vLLM reads embeddings, so pictures are read like words; ``emova.engine.vllm_worker`` runs beside it there, and its
logits processor hands the scores of each step over and waits for the choices. So grammar, sampling and sessions are the
same as elsewhere, and the replies that are being written share vLLM's steps (Kwon et al. 2023, arXiv 2309.06180).

vLLM goes on with a sequence by token ids alone, and only while it is part of every step. Whatever else is asked for (a
picture, going back, a pause beside others) drops the sequence there; it is handed over again from its first position,
and vLLM's prefix cache has what it was begun with.

Shape letters: T new positions of one sequence, B sequences, D width, V vocabulary, A allowed ids.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from emova.core.errors import InputError
from emova.engine.kv_cache import SequenceState
from emova.engine.vllm_config import VllmConfig

if TYPE_CHECKING:
    from emova.model import EmovaForConditionalGeneration

WORKER = Path(__file__).with_name("vllm_worker.py")
MOST_STEPS = 8
"""So many tokens are given to vLLM one by one; more are read in one step, with all that was before them."""
_HEAD = struct.Struct("<Q")


class VllmCache(SequenceState):
    """What one sequence has read. vLLM keeps its keys and values, as long as it is ``open`` and by its prefix cache."""

    def __init__(self, positions: int, width: int) -> None:
        super().__init__(positions)
        self.name = ""
        """What vLLM calls it; empty: it is not open there."""
        self._width = width
        self._read: list[Tensor] = []

    @property
    def embeddings(self) -> Tensor:
        """``[length, D]``"""
        if len(self._read) != 1:
            self._read = [torch.cat(self._read) if self._read else torch.empty(0, self._width)]
        return self._read[0]

    def take(self, x_TD: Tensor) -> None:
        """Remember new positions."""
        self._read.append(x_TD)
        self.length += len(x_TD)

    def crop(self, change: int, /) -> None:
        """Forget the last ``-change`` positions."""
        super().crop(change)
        if change:
            self._read = [self.embeddings[: self.length]]
            self.name = ""


@dataclass
class _Turn:
    """What is still to be done for one sequence of a call.

    Attributes:
        left: token ids that go on from what vLLM has; None: everything is handed over anew.
        due: it was handed over, and vLLM has not yet come to it.
        row: ``[V]`` the scores after the last position.
    """

    cache: VllmCache
    left: list[int] | None
    due: bool = False
    row: Tensor | None = None


class Process:
    """vLLM's process and the line to it.

    Args:
        folder: of the language model, as transformers writes it.
        positions: of a sequence.

    Raises:
        InputError: it does not start.
    """

    def __init__(self, config: VllmConfig, folder: Path, positions: int) -> None:
        ours, theirs = socket.socketpair()
        options = {**asdict(config), "folder": str(folder), "positions": positions}
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": str(config.cache_gib)}
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [config.interpreter(), str(WORKER), str(theirs.fileno()), json.dumps(options)],
                    pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=self._said, stderr=self._said,
                    env=environment,
                )  # fmt: skip
            except OSError as error:
                raise InputError(f"the backend vllm: its Python does not start ({error.strerror})") from None
        self._socket, self._file = ours, ours.makefile("rb")
        self.close = weakref.finalize(self, _end, self.process, ours, self._file)
        self._receive()  # it is ready

    def send(self, head: dict[str, object], rows: Tensor | None = None) -> None:
        """Send a message; ``rows`` are float32."""
        data = b"" if rows is None else rows.float().contiguous().numpy().tobytes()
        text = json.dumps({**head, "bytes": len(data)}).encode()
        try:
            self._socket.sendall(_HEAD.pack(len(text)) + text + data)
        except OSError:
            raise self._ended() from None

    def _receive(self) -> tuple[dict[str, object], np.ndarray]:
        """A message's head, and its numbers. Raises: InputError: the process has ended."""
        prefix = b"" if self._file.closed else self._file.read(_HEAD.size)
        if len(prefix) < _HEAD.size:
            raise self._ended()
        head = json.loads(self._file.read(_HEAD.unpack(prefix)[0]))
        return head, np.frombuffer(self._file.read(head["bytes"]), dtype=np.float32)

    def scores(self) -> tuple[list[str], np.ndarray]:
        """The sequences of a step, and the scores that follow each, ``[B, padded V]``."""
        head, numbers = self._receive()
        names = [str(name) for name in head["names"]]  # type: ignore[attr-defined]
        return names, numbers.reshape(len(names), -1)

    def _ended(self) -> InputError:
        """Its last word is most often what went wrong."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
        errors = [line for line in lines if "Error" in line]
        return InputError(f"the backend vllm has ended: {(errors or lines)[-1].strip()[:300]}")


def _end(process: subprocess.Popen[bytes], line: socket.socket, file: IO[bytes]) -> None:
    file.close()
    line.close()
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Vllm:
    """A LanguageModel whose layers are in vLLM. Speech that is being written sees all of itself, and CTC is not read.

    Args:
        model: of the checkpoint; its layers are not used, they may be missing.
        folder: the checkpoint's.

    Raises:
        InputError: vLLM cannot be had, or does not run this language model.
    """

    def __init__(self, model: EmovaForConditionalGeneration, folder: str | Path, config: VllmConfig) -> None:
        from emova.checkpoint.backbone import write_backbone

        config.interpreter()  # told before a file is written
        self._embedding = model.model.language_model.embed_tokens.weight.detach()
        self.max_length: int = model.config.text_config.max_position_embeddings - 1  # vLLM has to write one more
        assert model.config.token_count is not None, "set when the configuration is made"
        self.token_count: int = model.config.token_count
        self._ids = {row.tobytes(): index for index, row in enumerate(self._bytes(self._embedding[: self.token_count]))}
        self._lock = threading.RLock()
        self._names = 0
        self._open: weakref.WeakValueDictionary[str, VllmCache] = weakref.WeakValueDictionary()
        with tempfile.TemporaryDirectory(prefix="emova-vllm-") as place:
            write_backbone(folder, Path(place))
            self._process = Process(config, Path(place), self.max_length + 1)
        self.pid = self._process.process.pid

    def close(self) -> None:
        """End vLLM's process, as the last reference to this object does."""
        self._process.close()

    @staticmethod
    def _bytes(rows: Tensor) -> np.ndarray:
        return rows.contiguous().view(torch.uint8).cpu().numpy()

    def new_cache(self, positions: int | None = None) -> VllmCache:
        """An empty cache for ``positions`` (the model's context if None)."""
        return VllmCache(min(positions or self.max_length, self.max_length), self._embedding.shape[1])

    def embed(self, ids: Sequence[int]) -> Tensor:
        """``[T, D]``"""
        return self._embedding[torch.as_tensor(ids, dtype=torch.long, device=self._embedding.device)].float().cpu()

    def _words(self, x_TD: Tensor) -> list[int] | None:
        """The token ids of embeddings; None where one is of no token."""
        rows = self._bytes(x_TD.to(self._embedding.dtype))
        found = [self._ids.get(row.tobytes(), -1) for row in rows]
        return None if -1 in found else found

    @torch.inference_mode()
    def forward(
        self, sequences: Sequence[tuple[VllmCache, Tensor]], every: bool = False, lasting: bool = True
    ) -> Tensor:
        """Read each sequence's new embeddings ``[T, D]``; the scores of all tokens ``[B, V]``, or after each position
        where ``every``.

        Raises:
            InputError: vLLM's process has ended.
        """
        assert all(0 < len(new) <= cache.room for cache, new in sequences)
        parts = [(cache, new.cpu().split(1) if every else (new.cpu(),)) for cache, new in sequences]
        rows: list[list[Tensor]] = [[] for _ in parts]
        with self._lock:
            for step in range(max(len(news) for _, news in parts)):
                places = [place for place, (_, news) in enumerate(parts) if step < len(news)]
                read = self._read([(parts[place][0], parts[place][1][step]) for place in places])
                for place, row in zip(places, read, strict=True):
                    rows[place].append(row)
        return torch.stack([row for own in rows for row in own])

    def _read(self, sequences: Sequence[tuple[VllmCache, Tensor]]) -> list[Tensor]:
        """vLLM's steps until each sequence has read its new positions; the scores ``[V]`` after the last of them."""
        turns = []
        for cache, new_TD in sequences:
            goes_on = cache.name and len(new_TD) <= MOST_STEPS
            turns.append(_Turn(cache, self._words(new_TD) if goes_on else None))
            cache.take(new_TD)
        waiting = list(turns)
        while waiting:
            new: list[tuple[str, int]] = []
            choices: list[tuple[str, int]] = []
            fresh = []
            for turn in waiting:
                if turn.due:
                    continue
                if turn.left:
                    choices.append((turn.cache.name, turn.left.pop(0)))
                else:
                    self._names += 1
                    turn.cache.name, turn.left = str(self._names), []
                    new.append((turn.cache.name, turn.cache.length))
                    fresh.append(turn.cache.embeddings)
                turn.due = True
            asked = {turn.cache.name: turn for turn in waiting}
            for name, cache in self._open.items():  # what has no choice is dropped by the other side
                if name not in asked and cache.name == name:
                    cache.name = ""
            self._process.send({"new": new, "next": choices}, torch.cat(fresh) if fresh else None)
            names, scores_BV = self._process.scores()
            self._open = weakref.WeakValueDictionary()
            for name, row in zip(names, scores_BV, strict=True):
                turn = asked[name]
                turn.due, self._open[name] = False, turn.cache
                if not turn.left:
                    turn.row = torch.from_numpy(row[: self.token_count].copy())
            waiting = [turn for turn in waiting if turn.row is None]
        return [turn.row for turn in turns if turn.row is not None]

    def scores(self, rows_NV: Tensor, allowed: np.ndarray | None = None, lasting: bool = True) -> Tensor:
        """Scores ``[N, A]`` of the ``allowed`` ids in their order; of all tokens if None."""
        return rows_NV if allowed is None else rows_NV[:, torch.from_numpy(allowed)]

    def ctc_log_probs(self, middle_TD: Tensor) -> np.ndarray:
        """Never asked for: no cache keeps a middle layer's states."""
        raise AssertionError("vLLM gives no middle layer's states")
