"""The server as a process of its own, whose memory, threads and file descriptors are read from outside."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COLLECT = signal.SIGUSR1
_ADDRESS = re.compile(r"Listening on http://([\d.]+):(\d+)/")


@dataclass(frozen=True)
class Held:
    """What a process holds: resident memory in MB, threads, open file descriptors."""

    rss_mb: float
    threads: int
    descriptors: int


class ServerProcess:
    """``emova serve`` on a free port. Raises: SystemExit: it does not start."""

    def __init__(self, arguments: Sequence[str], threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "emova_bench.soak.process", "--port", "0", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.said: list[str] = []  # its last lines on stderr
        self.port = self._wait_for_port()
        threading.Thread(target=self._listen, daemon=True).start()

    def _wait_for_port(self) -> int:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said.append(line.strip())
            if found := _ADDRESS.search(line):
                return int(found[2])
        raise SystemExit(f"the server does not start: {self.said[-1] if self.said else 'it says nothing'}")

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.said = [*self.said[-50:], line.strip()]

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def held(self) -> Held:
        """After a collection of garbage."""
        self._process.send_signal(COLLECT)
        time.sleep(1.0)
        folder = Path(f"/proc/{self._process.pid}")
        pages = int((folder / "statm").read_text().split()[1])
        return Held(
            pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            len(list((folder / "task").iterdir())),
            len(list((folder / "fd").iterdir())),
        )

    def stop(self, seconds: float = 40.0) -> bool:
        """Ask it to end; whether it did so by itself in time."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return self._process.returncode in (0, -signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


@contextmanager
def serving(arguments: Sequence[str], threads: int) -> Iterator[ServerProcess]:
    """A server while the block lasts. Raises: SystemExit: it does not start."""
    process = ServerProcess(arguments, threads)
    try:
        yield process
    finally:
        process.kill()


def _collect(number: int, frame: object) -> None:
    import ctypes
    import gc

    gc.collect()
    # What is free is given back, so that what is left is held.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    from emova.cli.main import main

    signal.signal(COLLECT, _collect)
    sys.exit(main(["serve", *sys.argv[1:]]))
