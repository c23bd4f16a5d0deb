"""Laws of the regions: targets lie where things are seen, classes are the regions' tokens, the heads learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emova.vision.slicing import letterbox
from emova_train.data.recipe import Picture, Region
from emova_train.vision.data import View, vary
from emova_train.vision.regions import (
    LEAST_COVER,
    NOTHING,
    ClassNames,
    ClassWords,
    RegionClasses,
    RegionHead,
    boxes_in_square,
    cell_targets,
)


def picture(*regions: Region) -> Picture:
    return Picture("a", Path("a.tar"), 0, 0, "signs", "", (), regions)


@pytest.mark.parametrize("size", [(224, 224), (300, 150), (90, 120)])
@pytest.mark.parametrize("seed", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("cells", [8, 16])
def test_the_marked_cells_are_the_coloured_ones(size, seed, cells):
    width, height = size
    left, top, right, bottom = (round(f * s) for f, s in zip((0.2, 0.3, 0.55, 0.8), size * 2, strict=True))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right, 0] = 255
    square = np.asarray(letterbox(Image.fromarray(pixels), 224, 224, (0, 0, 0)))
    view = View.plain(224) if seed is None else View.draw(224, np.random.default_rng(seed))
    red = vary(square, view)[..., 0] > 130
    coloured = red.reshape(cells, 224 // cells, cells, 224 // cells).mean((1, 3)).reshape(-1)

    covered = picture(Region("red", (left / width, top / height, right / width, bottom / height)))
    bags = np.array([[0.0, 1.0]], np.float32)
    targets = cell_targets(boxes_in_square(covered.regions, size, 224), bags, view.rows, view.columns, cells)
    assert np.allclose(targets.sum(-1), 1) and set(np.unique(targets)) == {0.0, 1.0}
    # Scaling a picture blurs its edges by about a pixel.
    slack = 2.5 * cells / 224
    assert (targets[coloured > LEAST_COVER + slack, 1] == 1).all()
    assert (targets[coloured < LEAST_COVER - slack, 1] == 0).all()
    assert (targets[coloured == 0, NOTHING] == 1).mean() > 0.95 and targets[:, 1].sum() > 4


def test_a_cell_names_its_marks_by_share_and_a_picture_without_marks_names_nothing():
    boxes = np.array([[0, 0, 8, 8], [0, 0, 4, 8]], np.float32)
    bags = np.array([[0, 1, 0], [0, 0, 1]], np.float32)
    targets = cell_targets(boxes, bags, np.arange(16), np.arange(16), 2)
    np.testing.assert_allclose(targets[0], [0, 2 / 3, 1 / 3], rtol=1e-6)
    assert (targets[1:, NOTHING] == 1).all()
    empty = cell_targets(np.zeros((0, 4), np.float32), np.zeros((0, 3), np.float32), np.arange(16), np.arange(16), 2)
    assert (empty == [1, 0, 0]).all()


def test_classes_are_the_tokens_of_marks_and_rare_ones_weigh_more(tiny_tokenizer):
    box = (0.1, 0.1, 0.9, 0.9)
    pictures = [picture(Region("red ball", box)), picture(Region("blue ball", box))]
    classes = RegionClasses(pictures, tiny_tokenizer)
    ids = {text: set(tiny_tokenizer.encode(text, add_special_tokens=False)) for text in (" red ball", " blue ball")}
    assert set(classes.tokens) == ids[" red ball"] | ids[" blue ball"] and len(classes) == 1 + len(classes.tokens)
    bag = dict(zip(classes.tokens, classes.bag("red ball")[1:], strict=True))
    assert {token for token, weight in bag.items() if weight > 0} == ids[" red ball"] and classes.bag("red ball")[
        0
    ] == 0
    shared, own = ids[" red ball"] & ids[" blue ball"], ids[" red ball"] - ids[" blue ball"]
    assert shared and own and max(bag[token] for token in shared) < min(bag[token] for token in own)
    assert classes.bag("~~~").shape == (len(classes),)


def test_a_head_learns_what_cells_show_and_counts_only_marked_ones():
    torch.manual_seed(0)
    features = torch.randn(4, 16, 12)
    wanted = torch.zeros(4, 16, 3)
    shown = torch.where(features[..., 0] > 1, 1, torch.where(features[..., 0] < -1, 2, NOTHING))
    wanted.scatter_(-1, shown[..., None], 1.0)
    head = RegionHead(ClassNames(12, 3))
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.05)
    first = head(features, wanted)
    for _ in range(150):
        terms = head(features, wanted)
        terms.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert terms.loss < first.loss / 3 and terms.right > 0.9
    nothing = torch.zeros(4, 16, 3)
    nothing[..., NOTHING] = 1
    unmarked = head(features, nothing)
    assert unmarked.loss == 0 and unmarked.right == 0


def test_empty_cells_weigh_no_more_than_marked_ones():
    names = ClassNames(2, 2)
    head = RegionHead(names)
    torch.nn.init.zeros_(names.out.weight)
    with torch.no_grad():
        names.out.bias.copy_(torch.tensor([2.0, 0.0]))
    wanted = torch.zeros(1, 10, 2)
    wanted[:, 0, 1] = wanted[:, 1:, NOTHING] = 1
    seen, missed = (-torch.tensor([2.0, 0.0]).log_softmax(-1)).tolist()
    assert head(torch.randn(1, 10, 2), wanted).loss.item() == pytest.approx((seen + missed) / 2, rel=1e-5)


def test_with_a_model_s_words_features_come_to_point_where_the_words_do():
    torch.manual_seed(0)
    words = torch.randn(2, 12)
    features = torch.randn(1, 8, 12, requires_grad=True)
    wanted = torch.zeros(1, 8, 3)
    wanted[:, :4, 1] = wanted[:, 4:, 2] = 1
    head = RegionHead(ClassWords(words))
    optimizer = torch.optim.AdamW([features, *head.parameters()], lr=0.05)
    for _ in range(200):
        head(features, wanted).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    likeness = torch.cosine_similarity(features[0, :, None], words[None], dim=-1)
    assert (likeness[:4, 0] > likeness[:4, 1] + 0.3).all() and (likeness[4:, 1] > likeness[4:, 0] + 0.3).all()
    larger = head(10 * features, wanted).loss
    assert larger.item() == pytest.approx(head(features, wanted).loss.item(), rel=1e-3)  # size tells nothing
