"""A page that plays what the model says: sentences read aloud and pictures with answers, good and bad as they fall.

    python -m emova_eval.nano.shown --out docs/shown

The first of each held-out source in turn: nobody chooses. Beside every sentence stands what an independent recogniser
hears of it, and beside every answer what would have been right.
"""

from __future__ import annotations

import html
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from PIL import Image

from emova.assistant import Assistant
from emova.cli.main import Parser, run_program
from emova.core.writing import make_folder, write_bytes, write_text
from emova.speech.style import DEFAULT_STYLES, Style
from emova_eval.judges.words import JUDGE_RATE, WhisperJudge
from emova_eval.metrics.text import word_errors
from emova_eval.nano.aloud import chosen
from emova_eval.nano.data import ShardSample, TextRow, read_shards

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; color-scheme: light dark }
article { display: grid; grid-template-columns: minmax(0, 18rem) 1fr; gap: 1rem; padding: 1rem 0 }
img, audio { width: 100% }
p { margin: 0 0 .3rem; overflow-wrap: anywhere }
.right { color: #1d8a33 } .wrong { color: #d04a4a }
@media (max-width: 36rem) { article { grid-template-columns: minmax(0, 1fr) } }
"""


@dataclass(frozen=True)
class Item:
    """One line of the page: a file to see or hear, lines of (label, text), and whether it is right."""

    media: str
    lines: tuple[tuple[str, str], ...]
    verdict: str
    right: bool

    def html(self) -> str:
        """As an article."""
        if self.media.endswith(".mp3"):
            shown = f'<audio controls preload="none" src="{html.escape(self.media)}"></audio>'
        else:
            shown = f'<img src="{html.escape(self.media)}" alt="" loading="lazy">'
        said = "".join(f"<p><b>{html.escape(label)}</b> {html.escape(text)}</p>" for label, text in self.lines)
        verdict = f'<p class="{"right" if self.right else "wrong"}">{html.escape(self.verdict)}</p>'
        return f"<article><div>{shown}</div><div>{said}{verdict}</div></article>\n"


def read_aloud(assistant: Assistant, rows: list[TextRow], judge: WhisperJudge, out: Path) -> list[Item]:
    """Each sentence by one of the voices in turn, as ``aloud-NN.mp3``."""
    items = []
    for number, row in enumerate(rows):
        voice = DEFAULT_STYLES.voices[number % len(DEFAULT_STYLES.voices)]
        said = assistant.render(assistant.pronounce(row["text"]), Style(voice, "neutral", "normal"))
        heard = ""
        if len(said.audio):
            heard = judge.transcribe(np.asarray(soxr.resample(said.audio, said.sample_rate, JUDGE_RATE), np.float32))
        errors = word_errors(row["text"], heard)
        name = f"aloud-{number + 1:02d}.mp3"
        buffer = io.BytesIO()
        soundfile.write(buffer, said.audio, said.sample_rate, format="MP3")
        write_bytes(out / name, buffer.getvalue())
        items.append(Item(name, (("Text", row["text"]), ("Voice", voice), ("Heard", heard or "(nothing)")),
                          f"{errors.edits} of {errors.reference_tokens} words wrong", errors.edits == 0))  # fmt: skip
    return items


def looked_at(assistant: Assistant, samples: list[ShardSample], out: Path) -> list[Item]:
    """The first question about each picture, as ``picture-NN.png``."""
    from emova_data.nano.pictures import correct

    items = []
    for number, sample in enumerate(samples):
        question = sample.facts["questions"][0]
        picture = Image.open(io.BytesIO(next(iter(sample.media.values())))).convert("RGB")
        answer = assistant.chat(image=picture, text=question["question"]).text
        right = correct({key: str(value) for key, value in question.items()}, answer)
        name = f"picture-{number + 1:02d}.png"
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", optimize=True)
        write_bytes(out / name, buffer.getvalue())
        lines = (("Question", question["question"]), ("Answer", answer), ("Expected", question["answer"]))
        items.append(Item(name, lines, "right" if right else "wrong", right))
    return items


def dealt(samples: list[ShardSample], count: int) -> list[ShardSample]:
    """The first of each kind in turn."""
    by_kind: dict[str, list[ShardSample]] = {}
    for sample in samples:
        by_kind.setdefault(sample.facts["kind"], []).append(sample)
    turns = max(map(len, by_kind.values()), default=0)
    return [own[turn] for turn in range(turns) for own in by_kind.values() if turn < len(own)][:count]


def page(model: str, aloud: list[Item], pictures: list[Item]) -> str:
    """The whole page."""

    def part(title: str, how: str, items: list[Item]) -> str:
        right = sum(item.right for item in items)
        return f"<h2>{title}</h2><p>{how} {right} of {len(items)} right.</p>" + "".join(item.html() for item in items)

    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>What {html.escape(model)} says</title><style>{STYLE}</style><body>"
        f"<h1>What {html.escape(model)} says</h1>"
        "<p>Of sources that no training sees, the first of each in turn; good and bad as they fell.</p>"
        + part("Read aloud", "Heard by Whisper base.", aloud)
        + part("Pictures by other programs", "Typed questions; the recipe's judge.", pictures)
        + "</body></html>\n"
    )  # fmt: skip


def main() -> None:
    parser = Parser(prog="python -m emova_eval.nano.shown", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("emova/checkpoints/emova-nano"))
    parser.add_argument("--data", type=Path, default=Path("data/nano"))
    parser.add_argument("--count", type=int, default=20, help="sentences, and pictures")
    parser.add_argument("--out", type=Path, default=Path("docs/shown"))
    arguments = parser.parse_args()
    rows = chosen(arguments.data / "text" / "aloud_test.jsonl", arguments.count)
    samples = dealt(list(read_shards(arguments.data / "pictures", "*_by-test-*.tar")), arguments.count)
    judge = WhisperJudge(arguments.data / "sources" / "whisper-base", threads=1)
    assistant = Assistant.from_pretrained(str(arguments.model))
    make_folder(arguments.out)
    aloud = read_aloud(assistant, rows, judge, arguments.out)
    pictures = looked_at(assistant, samples, arguments.out)
    write_text(arguments.out / "index.html", page(arguments.model.name, aloud, pictures))
    print(f"{arguments.out / 'index.html'}: {len(aloud)} sentences, {len(pictures)} pictures", file=sys.stderr)


if __name__ == "__main__":
    run_program(main)
