"""The other end of ``emova.engine.vllm``: vLLM in a process and an environment of its own.

A program for the Python that has vLLM; nothing of emova is imported here. Each of vLLM's steps ends in its logits
processor, which hands the scores of all sequences that were read to the other process and waits for its choices: so
sampling and grammar are emova's, and vLLM batches, caches and computes. A sequence without a choice is dropped; it may
be handed over again later, and vLLM's prefix cache has most of it.

A message is the length of its JSON head (8 bytes, little endian), the head, and ``head["bytes"]`` bytes of rows in
float32.
"""

import json
import os
import socket
import struct
import sys
from typing import Any

sys.path = [place for place in sys.path if os.path.abspath(place) != os.path.dirname(os.path.abspath(__file__))]
# else the module vllm would be its neighbour here
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the steps are made here, and the processor is called here
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from vllm import EngineArgs, SamplingParams  # type: ignore[import-not-found]  # noqa: E402
from vllm.v1.engine.llm_engine import LLMEngine  # type: ignore[import-not-found]  # noqa: E402
from vllm.v1.sample.logits_processor import LogitsProcessor  # type: ignore[import-not-found]  # noqa: E402


class Line:
    """The connection to the other process."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._file = self._socket.makefile("rb")

    def read(self) -> tuple[dict[str, Any], torch.Tensor]:
        """A message's head, and its rows one after another. Ends the program where the other process has."""
        prefix = self._file.read(8)
        if len(prefix) < 8:
            os._exit(0)  # this may be in the middle of a step
        head = json.loads(self._file.read(struct.unpack("<Q", prefix)[0]))
        data = bytearray(self._file.read(head["bytes"]))
        return head, torch.frombuffer(data, dtype=torch.float32) if data else torch.empty(0)

    def write(self, head: dict[str, Any], rows: torch.Tensor | None = None) -> None:
        """Send a message."""
        data = b"" if rows is None else rows.float().cpu().contiguous().numpy().tobytes()
        text = json.dumps({**head, "bytes": len(data)}).encode()
        self._socket.sendall(struct.pack("<Q", len(text)) + text + data)


class Choices(LogitsProcessor):  # type: ignore[misc]  # no types of vLLM's
    """Hands the scores over and leaves of each row what was chosen."""

    driver: "Driver"

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._names: dict[int, str] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Which sequence each row is of, as vLLM's interface tells: removals, additions, moves."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._names.pop(row, None)
        for row, params, _, _ in batch_update.added:
            self._names[row] = params.extra_args["sequence"]
        for first, second, direction in batch_update.moved:
            one, other = self._names.pop(first, None), self._names.pop(second, None)
            if one is not None:
                self._names[second] = one
            if other is not None and direction.name == "SWAP":
                self._names[first] = other

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Wait for the choice of each row."""
        names = [self._names[row] for row in range(len(logits))]
        chosen = self.driver.choose(names, logits)
        logits.fill_(float("-inf"))
        logits[torch.arange(len(logits)), torch.tensor(chosen)] = 0.0
        return logits


class Driver:
    """Makes vLLM's steps, one for each message or more."""

    def __init__(self, engine: Any, line: Line, width: int, positions: int) -> None:
        self._engine, self._line, self._width, self._positions = engine, line, width, positions
        self._new: list[tuple[str, torch.Tensor]] = []
        self._dropped: list[str] = []

    def take(self) -> dict[str, int]:
        """Wait for a message: what is to be read anew is kept, the choices are returned."""
        head, data = self._line.read()
        rows = data.view(-1, self._width) if len(data) else data
        start = 0
        for name, count in head["new"]:
            self._new.append((name, rows[start : start + count]))
            start += count
        return dict(head["next"])

    def choose(self, names: list[str], logits: torch.Tensor) -> list[int]:
        """Hand over the scores; the choice of each sequence, or 0 where it is dropped."""
        if all(name in self._dropped for name in names):
            return [0] * len(names)
        self._line.write({"names": names, "width": logits.shape[1]}, logits)
        chosen = self.take()
        self._dropped += [name for name in names if name not in chosen]
        return [chosen.get(name, 0) for name in names]

    def run(self) -> None:
        """Until the other process ends."""
        while True:
            if not self._engine.has_unfinished_requests() and not self._new:
                self.take()
            for name, rows in self._new:
                params = SamplingParams(
                    temperature=0.0,
                    max_tokens=self._positions - len(rows),
                    ignore_eos=True,
                    detokenize=False,
                    extra_args={"sequence": name},
                )
                self._engine.add_request(name, {"prompt_embeds": rows.to(self._engine.model_config.dtype)}, params)
            self._new = []
            if self._engine.has_unfinished_requests():
                self._engine.step()
            if self._dropped:
                self._engine.abort_request(self._dropped)
                self._dropped = []


def main() -> None:
    descriptor, text = sys.argv[1:]
    options = json.loads(text)
    line = Line(int(descriptor))
    engine = LLMEngine.from_engine_args(
        EngineArgs(
            model=options["folder"],
            dtype=options["dtype"],
            skip_tokenizer_init=True,
            enable_prompt_embeds=True,
            enable_prefix_caching=True,
            enable_chunked_prefill=False,  # so that every row in a step has a choice to be made
            enforce_eager=options["eager"],
            max_model_len=options["positions"],
            max_num_batched_tokens=max(options["positions"], 2048),
            max_num_seqs=options["sequences"],
            block_size=32,
            async_scheduling=False,
            logits_processors=[Choices],
            disable_log_stats=True,
            seed=0,
        )
    )
    width = engine.model_config.get_hidden_size()
    Choices.driver = Driver(engine, line, width, options["positions"])
    line.write({"ready": True})
    Choices.driver.run()


if __name__ == "__main__":
    main()
