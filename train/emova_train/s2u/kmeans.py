"""Find the centres of the k-means tokenizer (the entangled units of EMOVA section 4.1) on the recipe's speech.

emova train kmeans nano
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.core.writing import write_text
from emova.speech.tokenizer.kmeans import KMeansConfig, KMeansTokenizer
from emova_data.records.recordings import read_recordings
from emova_train.core.program import run_module
from emova_train.core.renamed import find_shards


@dataclass(frozen=True)
class KMeansRun:
    """What is clustered, and how long."""

    output_dir: str = "runs/kmeans-nano"
    data: str = "data/nano"
    sets: list[str] = field(default_factory=lambda: ["question", "answer", "s2u"])
    """Sets of ``data``/speech whose training shards are read."""
    max_units: int = 400_000
    """Stretches of speech that are clustered at most, as many of each shard as of the others."""
    batch_size: int = 8192
    passes: int = 10
    """Passes over them at most."""
    seed: int = 0
    model: KMeansConfig = field(default_factory=KMeansConfig)


def stretches(model: KMeansTokenizer, shards: list[Path], most: int, seed: int) -> np.ndarray:
    """[N, frames * M] float32 of training speech, drawn evenly from the shards. Raises: InputError."""
    rng = np.random.default_rng(seed)
    share = max(1, most // len(shards))
    found = []
    for shard in shards:
        own = []
        for clip in read_recordings(shard, model.sample_rate):
            count = len(clip.samples) // model.unit_samples
            if count:
                samples = torch.from_numpy(np.ascontiguousarray(clip.samples[: count * model.unit_samples]))
                own.append(model.stretches(model.mel(samples[None]))[0].numpy())
        if own:
            joined = np.concatenate(own)
            found.append(joined[rng.permutation(len(joined))[:share]])
    if not found:
        raise InputError("kmeans: the sets hold no speech; make the recipe's data first")
    return np.concatenate(found)


def train(config: KMeansRun) -> dict[str, float]:
    """Cluster and write ``output_dir``/export; returns what ``report.json`` holds.

    Raises:
        InputError: no shards, or fewer stretches than centres.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import PCA

    started = time.monotonic()
    folder = Path(config.data) / "speech"
    shards = sorted(Path(path) for name in config.sets for path in find_shards(f"{folder}/{name}-train-[0-9]*.tar"))
    if not shards:
        raise InputError(f"{folder}: no training shards of {', '.join(config.sets)}; make them with the recipe first")
    model = KMeansTokenizer(config.model)
    points = stretches(model, shards, config.max_units, config.seed)
    if len(points) < 2 * config.model.clusters:
        raise InputError(f"kmeans: {len(points)} stretches for {config.model.clusters} centres; lower model.clusters")
    reduced = PCA(config.model.dimensions, random_state=config.seed).fit(points)
    projected = (points - reduced.mean_) @ reduced.components_.T
    found = MiniBatchKMeans(
        config.model.clusters, batch_size=config.batch_size, max_iter=config.passes, n_init=1, init="random",
        reassignment_ratio=0.01, random_state=config.seed,
    ).fit(projected)  # fmt: skip
    model.mean.copy_(torch.from_numpy(reduced.mean_))
    model.projection.copy_(torch.from_numpy(reduced.components_.T.copy()))
    model.centres.copy_(torch.from_numpy(found.cluster_centers_))
    output = Path(config.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    save_config(config, output / "config.yaml")
    model.save_pretrained(output / "export")
    used = np.bincount(found.predict(projected), minlength=config.model.clusters) / len(projected)
    report = {
        "stretches": float(len(points)),
        "variance_kept": float(reduced.explained_variance_ratio_.sum()),
        "variance_explained": 1 - float(found.inertia_) / float(((projected - projected.mean(0)) ** 2).sum()),
        "codebook_perplexity": float(np.exp(-(used[used > 0] * np.log(used[used > 0])).sum())),
        "seconds": time.monotonic() - started,
    }
    write_text(output / "report.json", json.dumps(report, indent=1) + "\n")
    return report


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train kmeans``."""
    parser.add_argument("config", nargs="?", help="a YAML file, or a shipped config such as nano")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as max_units=100000")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    report = train(load_config(KMeansRun, arguments.config, arguments.overrides, kind="kmeans"))
    print("  ".join(f"{name} {value:.4g}" for name, value in report.items()))
    return 0


def main() -> int:
    return run_module(register, "emova_train.s2u.kmeans", __doc__.split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())
