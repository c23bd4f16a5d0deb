"""Packed shards as a set of units that the stages read: ``aloud/*.jsonl`` to ``units/aloud.jsonl``.

python -m emova_data.nano.aloud.as_units aloud heard --root data
"""

from __future__ import annotations

import json
from pathlib import Path

from emova.cli.main import Parser, run_program
from emova.core.errors import InputError
from emova.core.writing import make_folder, staged_output
from emova_data.nano.voices.voices import family_of, gender_of
from emova_data.records.packed_units import unpack_units

CANONICAL = "hibari/female"


def write_units(nano: Path, name: str) -> int:
    """Join a set's shards to ``units/{name}.jsonl``, whole or not at all; how many utterances.

    Raises:
        InputError: the set has no shards.
    """
    shards = sorted((nano / name).glob(f"{name}-*.jsonl"))
    if not shards:
        raise InputError(
            f"{nano / name}: no shards; make them first, by emova_data.nano.aloud.spoken or emova_train.data.heard"
        )
    target = nano / "units" / f"{name}.jsonl"
    make_folder(target.parent)
    rows = 0
    with staged_output(target) as file:
        for shard in shards:
            for line in shard.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                voice = row.get("voice", CANONICAL)
                whole = {
                    "key": row["id"], "text": row["text"], "units": unpack_units(row["units"]).tolist(),
                    "voice": voice, "family": family_of(voice), "gender": gender_of(voice.partition("+")[0]),
                    "set": name, "split": "test" if name.endswith("_test") else "train",
                }  # fmt: skip
                file.write((json.dumps(whole, ensure_ascii=False) + "\n").encode())
                rows += 1
    return rows


def main() -> None:
    parser = Parser(prog="python -m emova_data.nano.aloud.as_units", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--root", type=Path, default=Path("data"))
    arguments = parser.parse_args()
    for name in arguments.sets:
        print(f"{name}: {write_units(arguments.root / 'nano', name):,} utterances")


if __name__ == "__main__":
    run_program(main)
