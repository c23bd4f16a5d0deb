"""Pictures of the recipe ``nano``: drawn at 224 x 224, every fact known, with captions, questions and answers."""

from __future__ import annotations

from emova_data.nano.pictures.make import KINDS, make_picture, make_pictures
from emova_data.nano.pictures.questions import all_answers, all_questions, correct, write_texts

__all__ = ["KINDS", "all_answers", "all_questions", "correct", "make_picture", "make_pictures", "write_texts"]
