"""What a process holds is its own, not what the process that started it held."""

import subprocess
import sys

import numpy as np

from emova_eval.nano.system import _PEAK


def test_memory_of_the_parent_does_not_count() -> None:
    held = np.ones(75_000_000)  # 600 MB
    done = subprocess.run([sys.executable, "-c", f"{_PEAK}\nprint(peak)"], capture_output=True, text=True, check=True)
    assert 1 < float(done.stdout) < 200 < held.nbytes / 2**20
