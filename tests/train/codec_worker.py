"""One of several processes that train codecs together; ``tests/train/test_codec_at_scale.py`` starts them.

python -m tests.train.codec_worker JOBS.json, with RANK, WORLD_SIZE and the like in the environment. A job is a program
(as ``emova train`` calls it), its config, overrides, and a folder: where that is given, the run is copied there without
its last checkpoint, and goes on.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from emova.core.config import load_config
from emova_train.core import checkpointing
from emova_train.core.config import ParallelConfig
from emova_train.distributed import world as parallel
from emova_train.flow import program as flow
from emova_train.s2u import pretrain
from emova_train.s2u import program as s2u
from emova_train.u2s import program as u2s
from emova_train.vq import program as vq
from emova_train.vq.whisper import load_whisper
from tests.train.fixtures_vq import rows, started


def train(program: str, config: str, overrides: list[str]) -> None:
    if program == "s2u-pretrain":
        pretrain.train(load_config(pretrain.PretrainConfig, config, overrides, kind="s2u"))
    elif program == "s2u":
        s2u.train(load_config(s2u.S2UTrainConfig, config, overrides, kind="s2u"))
    elif program == "flow":
        flow.train(load_config(flow.FlowRecipe, config, overrides, kind="flow"))
    elif program == "vq":
        vq.train(load_config(vq.VQTrainConfig, config, overrides, kind="vq"))
    elif program == "vq-step":
        vq_step(load_config(vq.VQTrainConfig, config, overrides, kind="vq"))
    else:
        u2s.train(load_config(u2s.U2SRecipe, config, overrides, kind="u2s"))


def vq_step(config: vq.VQTrainConfig) -> None:
    """One step on this process's share of a batch; the codebook that comes of it goes to ``codes-RANK``."""
    world, passes = parallel.start(config.run.parallel), config.run.gradient_accumulation
    training, batch = started(config, load_whisper(config.whisper), passes)
    for part in range(passes):
        training(**rows(batch, world.rank * passes + part, world.size * passes))
    folder = Path(config.run.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(training.quantizer.state_dict(), folder / f"codes-{world.rank}.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    world = parallel.start(ParallelConfig())
    for program, config, overrides, copy in json.loads(Path(sys.argv[1]).read_text()):
        if copy:
            source = next(each.partition("=")[2] for each in overrides if each.startswith("run.output_dir="))
            if world.main:
                shutil.copytree(source, copy)
                last = checkpointing.latest(copy)
                assert last is not None
                shutil.rmtree(last)
            world.barrier()
            overrides = [*overrides, f"run.output_dir={copy}"]
        train(program, config, overrides)
    parallel.stop()


if __name__ == "__main__":
    main()
