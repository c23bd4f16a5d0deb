"""What the files of a checkpoint are called, and what to do where one is wrong."""

from __future__ import annotations

AGAIN = "copy the whole folder again"
READING_ALOUD = "reading_aloud.safetensors"
"""The language model that reads aloud, where it is another (``emova.checkpoint.reading_aloud``)."""
SPELLING = "spelling"
"""In that file's metadata: how texts are spelled to it (``emova.speech.spelling``)."""
WORDS = "words.safetensors"
"""Words and their sounds, by which ordinary speech is written down (``emova.decoding.word_search``)."""
