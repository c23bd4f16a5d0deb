"""What the assistant costs on this machine: memory, loading, and a question about a picture answered whole."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emova_eval.report.goals import Row

# A fresh process, so that neither the evaluation's judges nor its warm caches count.
# getrusage would count what the process that started it held: Linux hands that maximum on.
_PEAK = r"""
import re
from pathlib import Path
peak = int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
"""
_PROBE = f"""
import json, sys, time
begun = time.perf_counter()
from emova import Assistant
assistant = Assistant.from_pretrained(sys.argv[1])
loaded = time.perf_counter()
assistant.chat(audio=sys.argv[2], image=sys.argv[3])
times = []
for _ in range(5):
    start = time.perf_counter()
    assistant.chat(audio=sys.argv[2], image=sys.argv[3])
    times.append(time.perf_counter() - start)
{_PEAK}
print(json.dumps({{"load": loaded - begun, "answer": sorted(times), "memory": peak}}))
"""


@dataclass(frozen=True)
class Costs:
    """Seconds to import and load, seconds of each warm answer, peak memory in MB."""

    load: float
    answers: list[float]
    memory: float


def measure_costs(model: str, audio: Path, image: Path) -> Costs:
    """Run the probe in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, model, str(audio), str(image)], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    return Costs(figures["load"], figures["answer"], figures["memory"])


def cost_rows(costs: Costs) -> list[Row]:
    """The table's rows."""
    return [
        Row("peak memory", costs.memory, 1500, False, "MB", 1, "fresh process, resident"),
        Row("load", costs.load, 8, False, "s", 1, "imports included"),
        Row(
            "spoken question about a picture, whole answer",
            float(np.median(costs.answers)),
            4,
            False,
            "s",
            len(costs.answers),
            "median, warm; speech in to last sample out",
        ),
    ]
