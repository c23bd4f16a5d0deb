# ruff: noqa: F811  # fixtures are imported and named as arguments
"""The moving codebook of the supervised tokenizer: a step by hand, passes and processes, dead codes, commitment.

Shapes: N vectors, C codes, D width.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from emova.core.config import config_dict, load_config
from emova_train.vq.program import VQTrainConfig, VQTraining
from emova_train.vq.whisper import Whisper
from tests.train.fixtures_vq import (  # noqa: F401  # fixtures
    config,
    labelled,
    rows,
    started,
    whisper,
    whisper_folder,
)
from tests.train.test_parallel import SECONDS, run_module


def vectors_of(training: VQTraining, batch: dict[str, Tensor]) -> Tensor:
    """``[N, D]`` before the codebook."""
    vectors_BUD = training.model(batch["samples"], batch["lengths"]).detach()  # other kernels compute without gradients
    units_B = -(-batch["lengths"] // training.model.unit_samples)
    return vectors_BUD[torch.arange(vectors_BUD.shape[1])[None] < units_B[:, None]]


def test_a_step_is_the_moving_average_by_hand(config: VQTrainConfig, whisper: Whisper) -> None:
    """A code is the mean of its vectors, those of now with a weight of 0.01 beside its past."""
    training, batch = started(replace(config, restart_below=0.0), whisper)
    assert config.decay == 0.99
    book = training.quantizer._codebook
    book.embed[0] += 0.05 * torch.randn(book.embed[0].shape, generator=torch.Generator().manual_seed(1))
    sizes_C, sums_CD, codes_CD = (each[0].clone() for each in (book.cluster_size, book.embed_avg, book.embed))
    vectors_ND = vectors_of(training, batch)
    nearest_N = torch.cdist(vectors_ND.double(), codes_CD.double()).argmin(1)
    training(**batch)
    counts_C = torch.bincount(nearest_N, minlength=len(codes_CD)).float()
    assert int((counts_C > 0).sum()) > 5
    wanted_C = 0.99 * sizes_C + 0.01 * counts_C
    wanted_CD = 0.99 * sums_CD + 0.01 * torch.zeros_like(sums_CD).index_add(0, nearest_N, vectors_ND)
    assert torch.allclose(book.cluster_size[0], wanted_C, atol=1e-5)
    assert torch.allclose(book.embed_avg[0], wanted_CD, atol=1e-5)
    assert torch.allclose(book.embed[0], wanted_CD / wanted_C[:, None], atol=1e-3)  # but for the library's smoothing
    assert (book.embed[0] - codes_CD).abs().max() > 1e-2
    assert torch.equal(training.model.encoder.codebook.weight, training.quantizer.codebook)


def test_one_pass_a_step_is_the_librarys_own_step(config: VQTrainConfig, whisper: Whisper) -> None:
    training, batch = started(config, whisper)
    alone = copy.deepcopy(training.quantizer)
    for _ in range(3):
        vectors_ND = vectors_of(training, batch)
        torch.manual_seed(7)
        alone(vectors_ND[None])
        torch.manual_seed(7)
        training(**batch)
        for name, value in alone.state_dict().items():
            assert torch.equal(value, training.quantizer.state_dict()[name]), name


@pytest.mark.parametrize("passes", [2, 3])
def test_a_step_moves_the_codebook_alike_however_its_batch_is_cut(
    config: VQTrainConfig, whisper: Whisper, passes: int
) -> None:
    """So many vectors, so much past, in one pass or in several, and no code moves within a step."""
    config = replace(config, restart_below=0.0)
    whole, batch = started(config, whisper)
    cut, _ = started(config, whisper, passes)
    for _ in range(3):
        whole(**batch)
        before = cut.quantizer.codebook.clone()
        for part in range(passes):
            assert torch.equal(cut.quantizer.codebook, before)
            cut(**rows(batch, part, passes))
        assert torch.equal(cut.model.encoder.codebook.weight, cut.quantizer.codebook)
        for name, value in whole.quantizer.state_dict().items():
            assert torch.allclose(value, cut.quantizer.state_dict()[name], atol=1e-4), name
    assert not torch.allclose(before, cut.quantizer.codebook, atol=1e-3)


@pytest.mark.parametrize("passes", [1, 3])
def test_dead_codes_are_counted_by_steps(config: VQTrainConfig, whisper: Whisper, passes: int) -> None:
    training, batch = started(replace(config, restart_below=0.5), whisper, passes)
    book = training.quantizer._codebook
    book.embed[0, 3:5] = book.embed_avg[0, 3:5] = 1e3  # nothing is near
    book.cluster_size[0, 3:5] = torch.tensor([0.51, 0.503])  # after a step 0.5049 and 0.49797
    for part in range(passes):
        training(**rows(batch, part, passes))
    assert float(book.embed[0, 3].abs().max()) > 100 > float(book.embed[0, 4].abs().max())


def test_the_papers_step_is_half_a_thousand_passes() -> None:
    """The shipped threshold is a tenth of what a code has of a step in the mean, as nano's is of its one pass."""
    for name in ("nano", "paper"):
        shipped = load_config(VQTrainConfig, name, kind="vq")
        rate = 50 / shipped.model.encoder.pooling
        passes = shipped.run.global_batch_size or 1
        mean = passes * shipped.batch_seconds * rate / shipped.model.encoder.codes
        assert shipped.decay == 0.99 and 0.09 < shipped.restart_below / mean < 0.12


def test_codes_that_fall_out_of_use_begin_again_at_vectors(config: VQTrainConfig, whisper: Whisper) -> None:
    training, batch = started(replace(config, restart_below=0.5), whisper)
    book = training.quantizer._codebook
    book.cluster_size[0, 3:6] = 0.01
    book.embed[0, 3:6] = 1e3  # nothing is near
    book.embed_avg[0, 3:6] = 1e3
    training(**batch)
    assert training.model.encoder.codebook.weight[3:6].abs().max() < 100


def test_commitment_weighs_the_distance_to_the_codes(config: VQTrainConfig, whisper: Whisper) -> None:
    found: dict[float, dict[str, Tensor]] = {}
    slopes: dict[float, Tensor] = {}
    for weight in (0.0, 1.0, 10.0):
        training, batch = started(replace(config, commitment=weight, restart_below=0.0), whisper)
        book = training.quantizer._codebook
        book.embed[0] += 0.5 * torch.randn(book.embed[0].shape, generator=torch.Generator().manual_seed(1))
        vectors_ND = vectors_of(training, batch)
        codes_ND = training.quantizer.codebook[torch.cdist(vectors_ND, training.quantizer.codebook).argmin(1)]
        distance = functional.mse_loss(codes_ND, vectors_ND)
        found[weight] = training(**batch)
        found[weight]["loss"].backward()
        slope = training.get_parameter("model.encoder.layers.0.ffn.0.weight").grad
        assert slope is not None
        slopes[weight] = slope
    assert distance > 0.01
    for weight in (1.0, 10.0):
        assert float(found[weight]["words"].detach()) == pytest.approx(float(found[0.0]["words"].detach()), rel=1e-6)
        more = float((found[weight]["loss"] - found[0.0]["loss"]).detach())
        assert more == pytest.approx(weight * float(distance), rel=1e-3)
        assert float(found[weight]["commitment"].detach()) == pytest.approx(float(distance), rel=1e-4)
    # Its gradient grows with it, and it alone does.
    assert torch.allclose(slopes[10.0] - slopes[0.0], 10 * (slopes[1.0] - slopes[0.0]), atol=1e-5)
    assert (slopes[1.0] - slopes[0.0]).abs().max() > 1e-5


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
def test_two_processes_share_one_codebook(config: VQTrainConfig, whisper: Whisper, tmp_path: Path) -> None:
    """Both have the codebook of one process that has the batch of both, and a run that was stopped goes on exactly."""
    alone, batch = started(config, whisper)
    alone(**batch)
    path = tmp_path / "vq.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config_dict(labelled(config))))))
    steps = [
        ["vq-step", str(path), [f"run.output_dir={tmp_path}/step-{n}", f"run.gradient_accumulation={n}"], ""]
        for n in (1, 2)
    ]
    jobs = [*steps,
            ["vq", str(path), [f"run.output_dir={tmp_path}/two"], ""],
            ["vq", str(path), [f"run.output_dir={tmp_path}/two"], str(tmp_path / "two-again")]]  # fmt: skip
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    run_module(["tests.train.codec_worker", str(tmp_path / "jobs.json")], 2, tmp_path)
    for folder in ("step-1", "step-2"):
        ranks = [load_file(tmp_path / folder / f"codes-{rank}.safetensors") for rank in range(2)]
        for name, value in alone.quantizer.state_dict().items():
            assert torch.equal(ranks[0][name], ranks[1][name]), name
            assert torch.allclose(ranks[0][name].float(), value.float(), atol=1e-4), name
    whole, again = (load_file(tmp_path / name / "export" / "model.safetensors") for name in ("two", "two-again"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
