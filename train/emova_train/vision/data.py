"""Pictures and their texts for vision pre-training: decoded once into a memory map, lightly varied at every reading.

Shape letters: N pictures, S pixels a side, T text positions of a row, V cells of all grids, C classes of regions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from emova.core.writing import make_folder, staged_output, write_text
from emova.vision.slicing import letterbox
from emova_train.data.recipe import Picture
from emova_train.vision.regions import RegionClasses, boxes_in_square, cell_targets

IGNORED = -100


class PixelCache:
    """The decoded pictures [N, S, S, 3] uint8, on the disk; ``sizes``: width and height of each before.

    Args:
        pictures: what to decode; the order is the cache's.
        size: pixels a side.
        path: the file; made when it is missing or belongs to other pictures.
        fill: colour beside a picture that is not square.
    """

    def __init__(self, pictures: Sequence[Picture], size: int, path: Path, fill: tuple[int, int, int]) -> None:
        shape = (len(pictures), size, size, 3)
        digest = hashlib.sha256(json.dumps([(p.key, p.size, p.offset) for p in pictures]).encode()).hexdigest()
        stamp = path.with_suffix(".json")
        found = json.loads(stamp.read_text()) if path.is_file() and stamp.is_file() else {}
        if found.get("digest") != digest or "sizes" not in found:
            make_folder(path.parent)
            sizes = []
            with staged_output(path) as file:
                for picture in track(pictures, description=f"decoding {path.stem}"):
                    image = picture.load()
                    sizes.append(image.size)
                    file.write(np.asarray(letterbox(image, size, size, fill), dtype=np.uint8).tobytes())
            found = {"digest": digest, "shape": shape, "sizes": sizes}
            write_text(stamp, json.dumps(found))
        self.sizes: list[tuple[int, int]] = [(width, height) for width, height in found["sizes"]]
        self.pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)


@dataclass(frozen=True)
class View:
    """How a picture is looked at: ``rows`` and ``columns`` [S] say which place each pixel shows, then the light."""

    rows: np.ndarray
    columns: np.ndarray
    contrast: float = 1.0
    light: float = 0.0

    @classmethod
    def plain(cls, size: int) -> View:
        """The picture as it is."""
        return cls(np.arange(size), np.arange(size))

    @classmethod
    def draw(cls, size: int, rng: np.random.Generator, max_shift: int = 10) -> View:
        """A small shift (pixels in each direction) and zoom, light and contrast.

        No flips and no change of hue, so that the texts stay true.
        """
        scale = rng.uniform(0.94, 1.06)
        shift = rng.uniform(-max_shift, max_shift, 2)
        # Where each output pixel comes from, nearest neighbour; the border goes on outwards.
        grid = np.arange(size) - (size - 1) / 2
        rows, columns = (
            np.clip(np.rint(grid / scale + (size - 1) / 2 + s), 0, size - 1).astype(np.intp) for s in shift
        )
        return cls(rows, columns, rng.uniform(0.85, 1.15), rng.uniform(-16, 16))


def vary(pixels_SS3: np.ndarray, view: View) -> np.ndarray:
    """The picture [S, S, 3] uint8 as seen through ``view``."""
    moved = pixels_SS3[view.rows[:, None], view.columns[None, :]].astype(np.float32)
    moved = (moved - 128) * view.contrast + 128 + view.light
    return np.clip(moved, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class TextIds:
    """The decoder's vocabulary: the tokenizer's text tokens, then marks of its own."""

    text: int

    @property
    def end(self) -> int:
        return self.text

    @property
    def caption(self) -> int:
        return self.text + 1

    @property
    def question(self) -> int:
        return self.text + 2

    @property
    def answer(self) -> int:
        return self.text + 3

    @property
    def mask(self) -> int:
        return self.text + 4

    @property
    def size(self) -> int:
        return self.text + 5


@dataclass(frozen=True)
class Segment:
    """One text of a picture: decoder inputs and, one place on, what is to be written."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]
    is_answer: bool


def caption_segment(tokens: Sequence[int], ids: TextIds) -> Segment:
    """caption-mark c1 c2 ... -> c1 c2 ... end"""
    return Segment((ids.caption, *tokens), (*tokens, ids.end), is_answer=False)


def answer_segment(question: Sequence[int], answer: Sequence[int], ids: TextIds) -> Segment:
    """question-mark q1 ... answer-mark a1 ... -> nothing for the question, then a1 ... end"""
    inputs = (ids.question, *question, ids.answer, *answer)
    return Segment(inputs, (*(IGNORED for _ in range(len(question) + 1)), *answer, ids.end), is_answer=True)


@dataclass(frozen=True)
class CaptionSample:
    """A picture [S, S, 3] uint8 and its texts.

    ``parallel`` says that the caption is written all at once; ``regions`` what each cell shows, see ``CaptionData``.
    """

    pixels: np.ndarray
    segments: tuple[Segment, ...]
    parallel: bool
    regions: np.ndarray


class CaptionData:
    """Map-style data set of pictures with caption, questions and answers.

    Args:
        pictures: the records.
        cache: their pixels, in the same order.
        tokenizer: text to ids.
        ids: the decoder's vocabulary.
        classes: of the regions.
        grids: cells a side of each grid that regions are laid on; a sample's ``regions`` [V, C] are those grids' cells,
            row by row, one grid behind the other.
        parallel_ratio: share of captions written all at once from the picture alone (CapPa); training only.
        train: vary the pictures.
        seed: of the variations.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        cache: PixelCache,
        tokenizer: PreTrainedTokenizerBase,
        ids: TextIds,
        classes: RegionClasses,
        grids: Sequence[int],
        parallel_ratio: float = 0.0,
        train: bool = True,
        seed: int = 0,
    ) -> None:
        known: dict[str, list[int]] = {}

        def encode(text: str) -> list[int]:
            if text not in known:
                known[text] = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
            return known[text]

        self.pictures = pictures
        self.cache = cache
        self.ids = ids
        self.classes = classes
        self.grids = grids
        self.parallel_ratio = parallel_ratio
        self.train = train
        self.seed = seed
        self.segments = [
            (
                *([caption_segment(encode(picture.caption), ids)] if picture.caption else []),
                *(answer_segment(encode(e.question), encode(e.answer), ids) for e in picture.exchanges),
            )
            for picture in pictures
        ]

    def rarity(self) -> Tensor:
        """log(pictures / pictures whose caption has the token), [decoder's vocabulary]: what tells pictures apart."""
        counts = torch.zeros(self.ids.size)
        for segments in self.segments:
            for segment in segments:
                if not segment.is_answer:
                    counts[list({token for token in segment.targets if token < self.ids.text})] += 1
        return torch.where(counts > 0, (len(self.segments) / counts.clamp(min=1)).log(), 0.0)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> CaptionSample:
        return self.sample(index, 0)

    def sample(self, index: int, epoch: int) -> CaptionSample:
        rng = np.random.default_rng([self.seed, index, epoch])
        pixels = self.cache.pixels[index]
        view = View.draw(len(pixels), rng) if self.train else View.plain(len(pixels))
        parallel = self.train and bool(rng.random() < self.parallel_ratio)
        return CaptionSample(vary(pixels, view), self.segments[index], parallel, self.regions(index, view))

    def regions(self, index: int, view: View) -> np.ndarray:
        """What each cell of a picture shows when it is looked at so, [V, C]."""
        picture = self.pictures[index]
        boxes_M4 = boxes_in_square(picture.regions, self.cache.sizes[index], len(view.rows))
        bags_MC = np.array([self.classes.bag(region.text) for region in picture.regions]).reshape(-1, len(self.classes))
        grids = (cell_targets(boxes_M4, bags_MC, view.rows, view.columns, cells) for cells in self.grids)
        return np.concatenate(list(grids)).astype(np.float32)


@dataclass(frozen=True)
class CaptionCollate:
    """Samples to a batch; each picture's texts lie behind one another in one row of T positions.

    Gives pixels [B, 3, S, S] uint8; inputs, targets (-100 where nothing is written), segments (0 is padding),
    positions and answers (true at answers' targets), each [B, T]; parallel [B, T], true inside a caption that is
    written all at once; regions [B, V, C].
    """

    ids: TextIds

    def __call__(self, samples: Sequence[CaptionSample]) -> dict[str, Tensor]:
        width = max(sum(len(segment.inputs) for segment in sample.segments) for sample in samples)
        shape = (len(samples), width)
        inputs, targets = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        segments, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        answers, parallel = np.zeros(shape, bool), np.zeros(shape, bool)
        for row, sample in enumerate(samples):
            start = 0
            for number, segment in enumerate(sample.segments, 1):
                place = np.s_[row, start : start + len(segment.inputs)]
                at_once = sample.parallel and not segment.is_answer
                inputs[place] = self.ids.mask if at_once else segment.inputs
                targets[place] = segment.targets
                segments[place] = number
                positions[place] = np.arange(len(segment.inputs))
                answers[place] = segment.is_answer
                parallel[place] = at_once
                start += len(segment.inputs)
        pixels = torch.from_numpy(np.stack([sample.pixels for sample in samples])).permute(0, 3, 1, 2)
        regions = np.stack([sample.regions for sample in samples])
        rest = (inputs, targets, segments, positions, answers, parallel, regions)
        names = ("inputs", "targets", "segments", "positions", "answers", "parallel", "regions")
        return {"pixels": pixels, **{n: torch.from_numpy(value) for n, value in zip(names, rest, strict=True)}}
