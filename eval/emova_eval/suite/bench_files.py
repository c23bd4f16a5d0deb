"""The shipped pictures' questions written as each vision benchmark's own file, so that its reader and metric run.

These are fixtures: a figure on them says that the path works and how emova-nano does on pictures of its recipe's test
split. It is not the benchmark's figure, and never stands beside the papers'.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from emova.core.writing import write_text
from emova_eval.metrics.choices import CIRCULAR_STEP, LETTERS

Row = dict[str, object]
EACH = 8


@dataclass(frozen=True)
class Asked:
    """One open question on a shipped picture, its short answer, and four choices with the answer among them."""

    id: str
    kind: str
    type: str
    question: str
    key: str
    picture: Path
    choices: tuple[str, ...]

    @property
    def letter(self) -> str:
        """The right choice's letter."""
        return LETTERS[self.choices.index(self.key)]


def open_questions(fixtures: Path, seed: int = 0) -> list[Asked]:
    """The shipped questions but those answered by yes or no, the kinds of pictures in turn."""
    from emova_data.nano.pictures.questions import TYPES

    rng = random.Random(seed)
    lines = (fixtures / "pictures.jsonl").read_text(encoding="utf-8").splitlines()
    by_kind: dict[str, list[Asked]] = {}
    for number, row in enumerate(map(json.loads, lines)):
        if row["key"] in ("yes", "no"):
            continue
        others = sorted({key.split("|")[0] for key in TYPES[row["type"]].answers} - {row["key"]})
        choices = [row["key"], *rng.sample(others, min(3, len(others)))]
        rng.shuffle(choices)
        picture = fixtures / row["image"]
        asked = Asked(str(number), row["kind"], row["type"], row["question"], row["key"], picture, tuple(choices))
        by_kind.setdefault(row["kind"], []).append(asked)
    rounds = max(map(len, by_kind.values()))
    return [found[i] for i in range(rounds) for found in by_kind.values() if i < len(found)]


def digits(key: str) -> str:
    """A number word as a digit."""
    from emova_data.nano.pictures import vocabulary

    return str(vocabulary.NUMBERS.index(key))


class Writer:
    """Writes into ``folder``; every method gives the file or folder that ``emova eval NAME --data`` takes."""

    def __init__(self, folder: Path, asked: Sequence[Asked]) -> None:
        self.folder = folder
        self.asked = asked
        folder.mkdir(parents=True, exist_ok=True)

    def some(self, *kinds: str, types: Sequence[str] = ()) -> list[Asked]:
        """The first questions of these kinds, or of all; of these types, or of all."""
        return [a for a in self.asked if (not kinds or a.kind in kinds) and (not types or a.type in types)][:EACH]

    def save(self, name: str, content: object) -> Path:
        """A JSON file."""
        path = self.folder / name
        write_text(path, json.dumps(content))
        return path

    def picture(self, asked: Asked, ending: str = ".png", folder: str = "images") -> str:
        """The picture in the folder of pictures; its name there."""
        path = self.folder / folder / f"{asked.picture.stem}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            Image.open(asked.picture).convert("RGB").save(path, quality=95)
        return path.name

    def tsv(self, name: str, asked: Sequence[Asked], rotations: int = 1, free: bool = False) -> Path:
        """VLMEvalKit's table with the pictures inside; ``free`` leaves the choices out."""
        path = self.folder / f"{name}.tsv"
        with io.StringIO(newline="") as file:
            table = csv.writer(file, delimiter="\t")
            table.writerow(["index", "image", "question", *([] if free else "ABCD"), "answer", "category"])
            for number, a in enumerate(asked):
                image = base64.b64encode(a.picture.read_bytes()).decode()
                for turn in range(rotations):
                    choices = [*a.choices[turn:], *a.choices[:turn]]
                    cells = [] if free else [*choices, *[""] * (4 - len(choices))]
                    answer = str([a.key]) if free else LETTERS[choices.index(a.key)]
                    table.writerow([turn * CIRCULAR_STEP + number, image, a.question, *cells, answer, a.kind])
            write_text(path, file.getvalue())
        return path

    def mme(self) -> Path:
        """Two questions a picture, one with yes and one with no."""
        for a in self.some():
            place = self.folder / "mme" / a.kind
            self.picture(a, ".png", f"mme/{a.kind}")
            wrong = next(choice for choice in a.choices if choice != a.key)
            lines = [f"{a.question} Is it {said}? Please answer yes or no.\t{yes}"
                     for said, yes in ((a.key, "Yes"), (wrong, "No"))]  # fmt: skip
            write_text(place / f"{a.picture.stem}.txt", "\n".join(lines) + "\n")
        return self.folder / "mme"

    def mmbench(self) -> Path:
        """Every rotation of the choices."""
        return self.tsv("mmbench", [a for a in self.some() if len(a.choices) == 4][:4], rotations=4)

    def seed(self) -> Path:
        """SEED-Bench's JSON."""
        rows = [
            {"question_id": a.id, "question": a.question, "data_id": self.picture(a), "data_type": "image",
             "question_type_id": 1, "answer": a.letter,
             **{f"choice_{letter}": choice for letter, choice in zip("abcd", a.choices, strict=True)}}
            for a in self.some() if len(a.choices) == 4
        ]  # fmt: skip
        return self.save("seed.json", {"questions": rows})

    def mmvet(self) -> Path:
        """MM-Vet's JSON; its grades need a language model."""
        rows = {a.id: {"imagename": self.picture(a), "question": a.question, "answer": a.key} for a in self.some()}
        return self.save("mmvet.json", rows)

    def realworldqa(self) -> Path:
        """A table with choices."""
        return self.tsv("realworldqa", self.some())

    def textvqa(self) -> Path:
        """TextVQA's JSON: ten people's answers."""
        rows = [
            {"question_id": int(a.id), "question": a.question, "answers": [a.key] * 10,
             "image_id": self.picture(a, ".jpg").removesuffix(".jpg")}
            for a in self.some("signs", "price_tags")
        ]  # fmt: skip
        return self.save("textvqa.json", {"data": rows})

    def chartqa(self) -> Path:
        """ChartQA's JSON."""
        rows = [{"imgname": self.picture(a), "query": a.question, "label": a.key} for a in self.some("charts")]
        return self.save("chartqa.json", rows)

    def _documents(self, name: str, column: str, *kinds: str) -> Path:
        rows = [
            {"questionId": int(a.id), "question": a.question, column: self.picture(a), "answers": [a.key]}
            for a in self.some(*kinds)
        ]
        return self.save(f"{name}.json", {"data": rows})

    def docvqa(self) -> Path:
        """DocVQA's JSON."""
        return self._documents("docvqa", "image", "posters")

    def infovqa(self) -> Path:
        """InfographicVQA's JSON."""
        return self._documents("infovqa", "image_local_name", "tables", "weather")

    def ocrbench(self) -> Path:
        """A table without choices."""
        return self.tsv("ocrbench", self.some("signs", "posters"), free=True)

    def _numbers(self) -> list[Asked]:
        return self.some("charts", "tables", types=("value", "score", "bars", "names"))

    def mathvista(self) -> Path:
        """MathVista's JSON with whole numbers."""
        rows = {
            a.id: {"question": a.question, "image": self.picture(a), "answer": digits(a.key), "answer_type": "integer",
                   "precision": None, "choices": None}
            for a in self._numbers()
        }  # fmt: skip
        return self.save("mathvista.json", rows)

    def mathverse(self) -> Path:
        """MathVerse's JSON."""
        rows = [
            {"sample_index": a.id, "image": self.picture(a), "question": a.question, "answer": digits(a.key),
             "problem_version": "Vision Only"}
            for a in self._numbers()
        ]  # fmt: skip
        return self.save("mathverse.json", rows)

    def scienceqa(self) -> Path:
        """ScienceQA's JSON: a folder a question."""
        rows = {}
        for a in self.some():
            name = self.picture(a, ".png", f"images/{a.id}")
            rows[a.id] = {"question": a.question, "choices": list(a.choices), "answer": a.choices.index(a.key),
                          "image": name, "hint": "", "split": "test", "subject": a.kind}  # fmt: skip
        return self.save("scienceqa.json", rows)

    def ai2d(self) -> Path:
        """A table with choices."""
        return self.tsv("ai2d", self.some("charts", "tables", "signs", "posters"))


def write_benchmarks(fixtures: Path, folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Each benchmark's name and the file that its task reads; the pictures lie in ``folder/images``."""
    writer = Writer(folder, open_questions(fixtures))
    makers: dict[str, Callable[[], Path]] = {name: getattr(writer, name) for name in names}
    return {name: make() for name, make in makers.items()}
