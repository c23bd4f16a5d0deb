from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from emova.core.errors import InputError
from emova.core.tokens import TokenIds
from emova.core.weights import save_folder
from emova.model.building import VisionExport, load_vision
from emova_train.data.recipe import Exchange, Picture, Region
from emova_train.vision.data import CaptionCollate, CaptionData, PixelCache, TextIds, View, vary
from emova_train.vision.program import DecoderShape, VisionCaptioner, go_on, read_words, right_answers
from emova_train.vision.regions import RegionClasses

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}


@pytest.fixture()
def data(tmp_path, tiny_tokenizer):
    shard = tmp_path / "pictures.bin"
    pictures = []
    with shard.open("wb") as file:
        for name, colour in COLOURS.items():
            start = file.tell()
            Image.new("RGB", (28, 28), colour).save(file, "PNG")
            asked = (Exchange("What colour is it?", f"It is {name}.", "neutral", "normal", "colour"),)
            regions = (Region(name, (0.0, 0.0, 1.0, 0.5)),)
            picture = Picture(name, shard, start, file.tell() - start, "signs", f"A {name} picture.", asked, regions)
            pictures.append(picture)
    cache = PixelCache(pictures, 28, tmp_path / "cache" / "train.u8", (0, 0, 0))
    again = PixelCache(pictures, 28, tmp_path / "cache" / "train.u8", (0, 0, 0))
    assert np.array_equal(cache.pixels, again.pixels) and tuple(cache.pixels[1, 0, 0]) == COLOURS["blue"]
    ids = TextIds(TokenIds.from_tokenizer(tiny_tokenizer).pad)
    return CaptionData(pictures, cache, tiny_tokenizer, ids, RegionClasses(pictures, tiny_tokenizer), (2, 4), 0.5)


@pytest.fixture()
def captioner(data, tiny_parts):
    torch.manual_seed(0)
    shape = DecoderShape(width=16, layers=1, heads=2, positions=64)
    export, classes = VisionExport(*tiny_parts), len(data.classes)
    return VisionCaptioner(export, shape, data.ids, [0.5] * 3, [0.25] * 3, data.rarity(), region_classes=classes)


def test_the_captioner_learns_colours_and_hands_its_tower_on(data, captioner, tiny_model, tmp_path):
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=1e-2)
    collate = CaptionCollate(data.ids)
    for step in range(40):
        terms = captioner(**collate([data.sample(index, step) for index in range(2)]))
        terms["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    data.train = False
    shares = right_answers(captioner.eval(), data)
    assert shares["right_answers"] == 1.0 and shares["right_signs"] == 1.0

    save_folder(tmp_path / "export", captioner.export, captioner.parts.state_dict())
    load_vision(tiny_model, tmp_path / "export")
    for name, tensor in captioner.parts.vision_tower.state_dict().items():
        assert torch.equal(tensor, tiny_model.model.vision_tower.state_dict()[name])


def test_texts_of_a_picture_do_not_see_each_other(data, captioner):
    data.train = False
    batch = CaptionCollate(data.ids)([data[0]])
    names = ("inputs", "segments", "positions", "parallel")
    memory = captioner.eval().look(batch["pixels"])
    before = captioner.hidden(memory, **{name: batch[name] for name in names})
    other = dict(batch)
    caption = batch["segments"] == 1
    other["inputs"] = torch.where(caption, 5, batch["inputs"])
    after = captioner.hidden(memory, **{name: other[name] for name in names})
    assert torch.equal(before[~caption], after[~caption]) and not torch.equal(before[caption], after[caption])


def test_a_parallel_caption_sees_nothing_of_itself(data):
    sample = next(data.sample(0, epoch) for epoch in range(50) if data.sample(0, epoch).parallel)
    batch = CaptionCollate(data.ids)([sample])
    caption = batch["segments"][0] == 1
    assert (batch["inputs"][0][caption] == data.ids.mask).all() and batch["parallel"][0][caption].all()
    assert not batch["parallel"][0][~caption].any()
    assert (batch["targets"][0][caption] >= 0).all()


def test_variation_is_reproducible_small_and_keeps_colours():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[16:48, 16:48] = (220, 20, 20)
    first, second = (vary(pixels, View.draw(64, np.random.default_rng(3))) for _ in range(2))
    assert np.array_equal(first, second) and first.shape == pixels.shape
    red = (first[..., 0] > 120) & (first[..., 1] < 90)
    assert 0.6 < red.sum() / 1024 < 1.4


def test_the_bag_wants_what_tells_captions_apart(data, captioner):
    rarity = data.rarity()
    shared = data.segments[0][0].targets[0]
    assert rarity[shared] == 0 and rarity[data.ids.end] == 0
    assert rarity[[t for t in data.segments[0][0].targets if t not in data.segments[1][0].targets]].min() > 0
    batch = CaptionCollate(data.ids)([data[0], data[1]])
    targets = torch.where(batch["answers"], -100, batch["targets"])
    loss = captioner.bag_loss(captioner.look(batch["pixels"]), targets)
    loss.backward()
    assert torch.isfinite(loss) and captioner.parts.vision_tower.pos_embed.grad is not None


def test_calibrated_patches_leave_room_for_positions(data, captioner):
    torch.manual_seed(1)
    pixels = 255 * torch.rand(4, 3, 28, 28)
    captioner.calibrate(pixels)
    tower = captioner.parts.vision_tower
    patches = tower.patch_embed((pixels - captioner.mean) / captioner.std)
    torch.testing.assert_close(patches.mean((0, 1)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(patches.std((0, 1)), torch.ones(16), atol=1e-4, rtol=0)
    assert 0.2 < tower.pos_embed.std() < 0.5


def test_visual_tokens_learn_what_is_marked(data, captioner):
    data.train = False
    batch = CaptionCollate(data.ids)([data[0], data[1]])
    assert batch["regions"].shape == (2, 2 * 2 + 4 * 4, len(data.classes))
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=1e-2)
    logged = []
    for _ in range(80):
        terms = captioner(**batch)
        logged.append(terms["region_loss"].item())
        terms["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert logged[-1] < logged[0] / 2 and terms["regions_right"] > 0.9


def test_a_run_goes_on_from_an_export_or_with_its_decoder_from_a_checkpoint(data, captioner, tiny_parts, tmp_path):
    save_folder(tmp_path / "export", captioner.export, captioner.parts.state_dict())
    (tmp_path / "checkpoint").mkdir()
    save_file(captioner.state_dict(), tmp_path / "checkpoint" / "model.safetensors")
    wanted = {name: value.clone() for name, value in captioner.state_dict().items()}
    for folder, whole in ((tmp_path / "export", False), (tmp_path / "checkpoint", True)):
        with torch.no_grad():
            for parameter in captioner.parameters():
                parameter.zero_()
        go_on(captioner, folder)
        same = {name: torch.equal(value, wanted[name]) for name, value in captioner.state_dict().items()}
        assert all(equal for name, equal in same.items() if whole or name.startswith("parts."))
        assert all(same.values()) == whole
    save_file({"bag.bias": wanted["bag.bias"]}, tmp_path / "checkpoint" / "model.safetensors")
    with pytest.raises(InputError, match="is missing or has another shape"):
        go_on(captioner, tmp_path / "checkpoint")
    with pytest.raises(InputError, match="neither an export nor a checkpoint"):
        go_on(captioner, tmp_path)


def test_words_are_the_language_model_s(data, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    words = read_words(tmp_path / "model", data.classes)
    assert torch.equal(words, tiny_model.get_input_embeddings().weight[list(data.classes.tokens)])
    (tmp_path / "other").mkdir()
    save_file({"weight": words}, tmp_path / "other" / "model.safetensors")
    with pytest.raises(InputError, match="no language model"):
        read_words(tmp_path / "other", data.classes)
    with pytest.raises(InputError, match="missing"):
        read_words(tmp_path / "nothing", data.classes)
