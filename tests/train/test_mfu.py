"""The arithmetic that is counted by formula is what torch counts while it computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from emova_train.core.mfu import add_mfu, peak_flops, step_cost
from emova_train.data.examples import NOTHING, TEXT, Example
from emova_train.data.packing import collate
from emova_train.stages.config import RatesConfig
from emova_train.stages.losses.packed import packed_loss
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.start import freeze


def batch_of(processor, pictures: int):
    import numpy as np
    from PIL import Image

    examples = []
    for number in range(3):
        content: list[dict[str, object]] = [{"type": "text", "text": "What colour is the ball? " * (6 + number)}]
        if number < pictures:
            content.insert(0, {"type": "image", "image": Image.new("RGB", (28, 28), "red")})
        rendered = processor.render_training(
            [{"role": "user", "content": content}, {"role": "assistant", "content": "It is red. " * 20}]
        )
        kinds = np.where(rendered.loss_mask, TEXT, NOTHING).astype(np.int8)
        grids = tuple((grid.rows, grid.columns) for grid in rendered.image_grids)
        examples.append(Example(np.asarray(rendered.input_ids), kinds, rendered.pixel_values, grids, ""))
    return collate([examples], LossWeights())


@pytest.mark.parametrize("pictures", [0, 3])
@pytest.mark.parametrize(
    "rates",
    [RatesConfig(1e-3, 1e-3, 1e-3), RatesConfig(projector=1e-3), RatesConfig(llm=1e-3, projector=1e-3)],
    ids=["all", "stage1", "no tower"],
)
def test_the_formula_agrees_with_torch(tiny_model, tiny_processor, pictures: int, rates: RatesConfig) -> None:
    if not pictures and not rates.llm:
        pytest.skip("without a picture a projector alone has nothing to learn from")
    model = tiny_model.train()
    freeze(model, rates)
    model.set_attn_implementation("emova_packed")
    batch = batch_of(tiny_processor, pictures)
    with FlopCounterMode(display=False) as counter:
        packed_loss(model, batch)["loss"].backward()
    # torch does not count a CPU's fused attention.
    ours = replace(step_cost(model), llm_attention=0, tower_attention=0).flops(batch)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_attention_is_half_of_a_square(tiny_model, tiny_processor) -> None:
    cost, batch = step_cost(tiny_model), batch_of(tiny_processor, 0)
    more = cost.flops(batch) - replace(cost, llm_attention=0).flops(batch)
    lengths = (batch["cu_seq_lens"][1:] - batch["cu_seq_lens"][:-1]).tolist()
    # Two layers of width 32; two products of n * n / 2 places, two operations each, forward and twice backward.
    assert more == 3 * 2 * sum(2 * 2 * length * length / 2 * 32 for length in lengths)


def test_mfu_is_a_share_of_the_peak() -> None:
    torch.set_num_threads(1)
    peak = peak_flops()
    assert peak > 1e9
    values = {"loss": 1.0, "flops_per_s": peak / 4}
    add_mfu(values)
    assert values == {"loss": 1.0, "mfu": 0.25}
    untouched = {"loss": 1.0}
    add_mfu(untouched)
    assert untouched == {"loss": 1.0}
