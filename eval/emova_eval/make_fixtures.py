"""Make the small files of ``eval/emova_eval/fixtures`` from the data of the recipe ``nano``; see the README there.

``python -m emova_eval.make_fixtures --data data/nano`` writes what ``emova eval all --offline`` needs. Everything is
drawn by
a seed from held-out items, and is free to pass on: rule-made voices (Apache-2.0), festival's diphone voices (MIT-like),
piper's joe (CC0-1.0), Kokoro's Mandarin voices (Apache-2.0), drawn pictures and texts (Apache-2.0).
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import soundfile

from emova.cli.main import Parser, run_program
from emova.core.writing import write_bytes, write_text
from emova.speech.style import DEFAULT_STYLES
from emova_eval.metrics.acoustics import measure
from emova_eval.nano.data import ShardSample, TextRow, held_out_questions, read_lines, read_shards
from emova_eval.suite.offline import FixtureRow

RATE = 16000
DRAWN = ("scenes", "charts", "tables", "price_tags", "signs", "posters", "faces", "weather")
FACTS = (
    "capital",
    "next_day",
    "opposite",
    "animal_sound",
    "baby_animal",
    "add",
    "color_of",
    "legs",
    "home_of",
    "plural",
)
FACT_SLOTS = ("city", "other", "sound", "baby", "young", "sum", "color", "number", "home", "many")
_LEAK_VOICES = ("hibari/p140", "hibari/p141", "hibari/p142", "hibari/p143")
_LEAK_SENTENCES = (
    "The boat will leave at seven.",
    "I found the keys under the chair.",
    "My sister lives near the old bridge.",
    "Please bring me a glass of water.",
    "It was raining all through the night.",
)
CHINESE = (
    ("zf_xiaobei", "今天的天气很好，我们去公园走走吧。"),
    ("zm_yunxi", "请问火车站怎么走？"),
    ("zf_xiaoni", "图书馆在学校的旁边。"),
    ("zm_yunyang", "我想要一杯热茶。"),
    ("zf_xiaoxiao", "他们明天早上八点出发。"),
    ("zm_yunjian", "这本书非常有意思。"),
)
"""Kokoro's Mandarin voices and what each says."""


def write_ogg(path: Path, samples: np.ndarray, rate: int = RATE) -> None:
    """A small file of good quality: Ogg Opus, about 30 kbit a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, format="OGG", subtype="OPUS", compression_level=0.88)


def write_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


class PictureQuestion(TextRow, total=False):
    """A question about a picture, with its kind and its file."""

    kind: str
    image: str


def pictures(data: Path, out: Path, each: int, rng: random.Random) -> Iterator[PictureQuestion]:
    """Write ``each`` test pictures of every drawn kind; yields its questions with kind and file."""
    for kind in DRAWN:
        shown = list(read_shards(data / "pictures", f"{kind}-test-*.tar"))
        rng.shuffle(shown)
        for sample in shown[:each]:
            name = f"pictures/{sample.key}.png"
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            sample.image().quantize(64).save(buffer, "PNG", optimize=True)
            write_bytes(out / name, buffer.getvalue())
            for question in sample.facts["questions"]:
                yield {**question, "kind": kind, "image": name}


def questions(data: Path, out: Path, rng: random.Random, talk: int = 14, facts: int = 10, each: int = 2) -> None:
    """Spoken questions by unheard voices: small talk, facts, and about pictures; with everything that judges them."""
    spoken: dict[str, list[ShardSample]] = {}
    for sample in held_out_questions(data):
        spoken.setdefault(sample.facts["text"], []).append(sample)
    exchanges = [row for row in read_lines(data / "text" / "talk.jsonl") if row["split"] == "test"]
    exchanges = [row for row in exchanges if row["question"] in spoken]
    rng.shuffle(exchanges)
    known = [row for row in exchanges if row["intent"] in FACTS][:facts]
    chosen = known + [row for row in exchanges if row["intent"] not in FACTS][:talk]
    rows: list[FixtureRow] = []

    def add(record: TextRow, image: str, kind: str) -> None:
        sample = rng.choice(spoken[record["question"]])
        name = f"questions/{len(rows):02d}.ogg"
        write_ogg(out / name, sample.audio(RATE))
        row: FixtureRow = {
            "audio": name, "image": image, "kind": kind, "question": record["question"], "answer": record["answer"],
            "emotion": record["emotion"], "pitch": record["pitch"],
        }  # fmt: skip
        if "intent" in record:
            row["intent"], row["slots"] = record["intent"], record["slots"]
        if "type" in record:
            row["type"], row["key"] = record["type"], record["key"]
        row["fact"] = next(
            (record["slots"][slot] for slot in FACT_SLOTS if kind == "fact" and slot in record["slots"]), ""
        )
        row["voice"], row["phones"] = sample.facts["voice"], sample.facts["phones"]
        rows.append(row)

    for record in chosen:
        add(record, "", "fact" if record in known else "talk")
    asked = list(pictures(data, out, each, rng))
    for kind in DRAWN:
        for shown in [row for row in asked if row["kind"] == kind and row["question"] in spoken][:1]:
            add(shown, shown["image"], kind)
    wanted = {row["answer"]: row for row in rows if row["kind"] == "fact"}
    for sample in read_shards(data / "speech", "answer-train-*.tar"):
        if row := wanted.get(sample.facts["text"]):
            row["spoken_answer"] = row["audio"].replace("questions", "answers")
            write_ogg(out / row["spoken_answer"], sample.audio(RATE))
    write_lines(out / "questions.jsonl", rows)
    write_lines(out / "pictures.jsonl", asked)


def voices(out: Path) -> None:
    """The same sentences by rule-made voices in four emotions, to probe units for what should not be in them."""
    import soxr

    from emova_data.nano.voices.voices import Voices, gender_of

    speaker, rows = Voices(Path()), []
    for voice, emotion, (number, text) in product(_LEAK_VOICES, DEFAULT_STYLES.emotions, enumerate(_LEAK_SENTENCES)):
        said = speaker.speak(voice, text, emotion, "normal")
        name = f"voices/{voice.split('/')[1]}-{emotion}-{number}.ogg"
        write_ogg(out / name, soxr.resample(said.samples, said.sample_rate, RATE))
        group = f"{voice.split('/')[1]}/{emotion}"
        rows.append({"audio": name, "text": text, "answer": text, "group": group, "gender": gender_of(voice)})
    write_lines(out / "voices.jsonl", rows)


def chinese(data: Path, out: Path) -> None:
    """Short Mandarin sentences by Kokoro's voices. Raises: InputError: a package is missing, or Kokoro."""
    import soxr

    from emova_data.nano.voices.voices import Voices

    speaker, rows = Voices(data / "sources"), []
    for number, (voice, text) in enumerate(CHINESE):
        said = speaker.speak(f"kokoro/{voice}", text)
        name = f"chinese/{number}.ogg"
        write_ogg(out / name, soxr.resample(said.samples, said.sample_rate, RATE))
        rows.append({"audio": name, "text": text, "answer": text, "voice": f"kokoro/{voice}", "phones": said.phones})
    write_lines(out / "chinese.jsonl", rows)


def emotions(data: Path, out: Path, per_style: int) -> None:
    """Measures of judge voices (``train``), and of the recipe's renderings of emova's own voices (``check``)."""
    from emova_data.nano.voices.judge_voices import render_judge_voices

    lines = ["set,emotion,f0,f0_spread,f0_range,level,level_spread,tilt,high_band,brightness"]

    def add(name: str, emotion: str, samples: np.ndarray) -> None:
        lines.append(",".join([name, emotion, *(f"{value:.5g}" for value in measure(samples).vector())]))

    for emotion, samples in render_judge_voices(per_style, 0, RATE):
        add("train", emotion, samples)
    seen: dict[tuple[str, str, str], int] = {}
    for sample in read_shards(data / "speech", "style-test-*.tar"):
        style = (sample.facts["gender"], sample.facts["emotion"], sample.facts["pitch"])
        seen[style] = seen.get(style, 0) + 1
        if seen[style] <= 3:
            add("check", sample.facts["emotion"], sample.audio(RATE))
    assert len(seen) == 2 * len(DEFAULT_STYLES.emotions) * len(DEFAULT_STYLES.pitches)
    write_text(out / "emotions.csv", "\n".join(lines) + "\n")


def main() -> None:
    parser = Parser(prog="python -m emova_eval.make_fixtures", description="Make the evaluation's shipped files anew.")
    parser.add_argument("--data", type=Path, default=Path("data/nano"), help="what `emova data make nano` wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "fixtures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-style", type=int, default=12, help="judge voices a style")
    parser.add_argument("--only", choices=("questions", "voices", "emotions", "chinese"))
    options = parser.parse_args()
    rng = random.Random(options.seed)
    if options.only in (None, "questions"):
        questions(options.data, options.out, rng)
    if options.only in (None, "voices"):
        voices(options.out)
    if options.only in (None, "chinese"):
        chinese(options.data, options.out)
    if options.only in (None, "emotions"):
        emotions(options.data, options.out, options.per_style)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    run_program(main)
