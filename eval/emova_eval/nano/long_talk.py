"""Whether an answer at turn 20 is as good as at turn 2: held-out questions in conversations of many turns.

    python -m emova_eval.nano.long_talk --model emova-nano --conversations 12 --turns 20

Each question is typed and judged by the recipe's own judge. A second figure asks the same questions alone, each in a
conversation of its own: the difference is what the turns before cost.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emova.core.errors import InputError
from emova_eval.nano.data import TextRow, read_lines

if TYPE_CHECKING:
    from emova.assistant import Assistant


@dataclass(frozen=True)
class Right:
    """Right answers of so many."""

    right: int = 0
    asked: int = 0

    def __add__(self, other: Right) -> Right:
        return Right(self.right + other.right, self.asked + other.asked)

    @property
    def share(self) -> float:
        """0 where nothing was asked."""
        return self.right / self.asked if self.asked else 0.0


def read_questions(path: Path) -> list[TextRow]:
    """The held-out exchanges of the recipe's talk. Raises: InputError: there are none."""
    return [row for row in read_lines(path) if row["split"] == "test"]


def talk(
    assistant: Assistant, questions: Sequence[TextRow], *, conversations: int, turns: int, seed: int
) -> tuple[list[Right], Right, list[dict[str, object]]]:
    """Right answers at each turn, right answers of the same questions alone, and what was answered."""
    from emova_data.nano.text.talk import appropriate

    by_turn = [Right() for _ in range(turns)]
    alone, said = Right(), []
    for number in range(conversations):
        rng = random.Random(f"{seed} {number}")
        asked = rng.sample(list(questions), turns)
        conversation = assistant.conversation()
        for turn, row in enumerate(asked):
            answers = [conversation.chat(text=row["question"]).text, assistant.chat(text=row["question"]).text]
            here, single = (appropriate(row["intent"], row.get("slots"), answer) for answer in answers)
            by_turn[turn] += Right(int(here), 1)
            alone += Right(int(single), 1)
            said.append({"turn": turn + 1, "question": row["question"], "answer": answers[0], "alone": answers[1],
                         "right": here})  # fmt: skip
    return by_turn, alone, said


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("emova/checkpoints/emova-nano"))
    parser.add_argument("--parts", type=Path, default=Path("emova/checkpoints/emova-nano"))
    parser.add_argument("--talk", type=Path, default=Path("data/nano/text/talk.jsonl"))
    parser.add_argument("--conversations", type=int, default=12)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from emova.assistant import Assistant
    from emova_eval.nano.aloud import completed

    with tempfile.TemporaryDirectory() as folder:
        assistant = Assistant.from_pretrained(str(completed(arguments.model, arguments.parts, Path(folder))))
        by_turn, alone, said = talk(assistant, read_questions(arguments.talk), conversations=arguments.conversations,
                                    turns=arguments.turns, seed=arguments.seed)  # fmt: skip
    quarter = max(1, arguments.turns // 4)
    figures = {
        "model": str(arguments.model),
        "turns": [round(each.share, 3) for each in by_turn],
        "first_quarter": round(sum(by_turn[:quarter], Right()).share, 3),
        "last_quarter": round(sum(by_turn[-quarter:], Right()).share, 3),
        "alone": round(alone.share, 3),
    }
    print(json.dumps(figures))
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**figures, "said": said}) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(str(error))
