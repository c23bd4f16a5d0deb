"""The papers' published figures, for the columns beside ours. None: not published.

EMOVA: "EMOVA: Empowering Language Models to See, Hear and Speak with Vivid Emotions", Tables 3, 4 and 6.
GLM-4-Voice: "GLM-4-Voice: Towards Intelligent and Human-Like End-to-End Spoken Chatbot", Tables 1 and 3 to 6.
Their judges (GPT-4o, Whisper-large-v3, Paraformer) are not those of an offline run.
"""

from __future__ import annotations

from dataclasses import dataclass

Cells = tuple[float | None, ...]


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper: ``rows`` maps our task's name, or ``TASK/FURTHER`` for a further figure of its answers, to
    (the paper's label, one figure a column). ``percent`` names rows that are shares of 1 here and per cent there."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, Cells]]
    percent: frozenset[str] = frozenset()


EMOVA_VISION = PublishedTable(
    "Vision-language and speech benchmarks",
    "EMOVA, Table 3",
    ("EMOVA 8B", "Gemini Pro 1.5", "GPT-4V", "GPT-4o", "LLaVA-OV-7B", "InternVL2-8B", "VITA 8x7B"),
    {
        "mme": ("MME", (2205, None, 1927, 2310, 1998, 2215, 2097)),
        "mmbench": ("MMBench", (82.8, None, 75.0, 83.4, 80.8, 81.7, 71.8)),
        "seed": ("SEED-Image", (78.1, None, 71.6, 77.1, None, 75.4, None)),
        "mmvet": ("MM-Vet", (55.8, None, 67.7, None, 57.5, 54.3, 41.6)),
        "realworldqa": ("RealWorldQA", (64.3, 68.7, 61.4, 75.4, 66.3, None, None)),
        "textvqa": ("TextVQA", (82.0, 73.5, 77.4, None, None, 77.4, None)),
        "chartqa": ("ChartQA", (81.8, 81.3, 78.5, 85.7, 80.0, 83.3, None)),
        "docvqa": ("DocVQA", (90.4, 86.5, 88.4, 92.8, 87.5, 91.6, None)),
        "infovqa": ("InfoVQA", (64.4, 72.7, None, None, 68.8, 74.8, None)),
        "ocrbench": ("OCRBench", (824, None, 656, 736, None, 794, 678)),
        "mathvista": ("MathVista", (61.1, 52.1, 49.9, 63.8, 63.2, 58.3, 44.9)),
        "mathverse": ("MathVerse", (27.8, None, 33.6, None, 26.2, None, None)),
        "scienceqa": ("ScienceQA-Img", (94.0, None, 75.7, None, 96.0, 97.1, None)),
        "ai2d": ("AI2D", (82.8, 80.3, 78.2, 84.6, None, 83.8, 73.1)),
        "asr-librispeech": ("LibriSpeech test-clean, WER", (4.0, None, None, None, None, None, 8.1)),
    },
)
EMOVA_DIALOGUE = PublishedTable(
    "Spoken dialogue, 0 to 10",
    "EMOVA, Table 4",
    ("Speech-Image-EN", "Speech-Text-EN", "Speech-Image-ZH", "Speech-Text-ZH"),
    {
        "dialogue-end-to-end": ("End-to-end", (7.21, 6.90, 5.87, 4.70)),
        "dialogue-unit-in-text-out": ("Unit in, text out", (7.43, 7.02, 6.51, 4.88)),
        "dialogue-text-in-text-out": ("Text in, text out", (7.75, 8.27, 6.44, 6.00)),
    },
)
EMOVA_SPEECH = PublishedTable(
    "ASR and TTS",
    "EMOVA, Table 6",
    ("Mini-Omni", "AnyGPT", "VITA", "EMOVA 8B"),
    {
        "asr-librispeech": ("LibriSpeech, WER", (4.5, 8.5, 8.1, 4.0)),
        "tts-librispeech": ("LibriSpeech, TTS-WER", (None, None, None, 3.4)),
        "asr-aishell-2": ("AISHELL-2, CER", (None, None, None, 10.3)),
        "tts-aishell-2": ("AISHELL-2, TTS-CER", (None, None, None, 7.9)),
    },
)
GLM_STORIES = PublishedTable(
    "Speech language modelling",
    "GLM-4-Voice, Table 3",
    ("TWIST 7B S→S", "Spirit-LM S→S", "Spirit-LM S→T", "Moshi S→S", "GLM-4-Voice S→T", "GLM-4-Voice S→S"),
    {
        "topic-storycloze": ("Topic-StoryCloze", (66.6, 82.9, 88.6, 83.0, 93.6, 82.9)),
        "storycloze": ("StoryCloze", (53.3, 61.0, 64.6, 60.8, 76.3, 62.4)),
    },
)
GLM_QUESTIONS = PublishedTable(
    "Spoken question answering",
    "GLM-4-Voice, Table 4",
    (
        "TWIST 7B S→S", "SpeechGPT S→T", "Spectron 1B S→T", "Moshi S→T", "Moshi S→S", "GLM-4-Voice S→T",
        "GLM-4-Voice S→S",
    ),
    {
        "web-questions": ("Web Questions", (1.5, 6.5, 6.1, 26.6, 9.2, 32.2, 15.9)),
        "llama-questions": ("Llama Questions", (4.0, 21.6, 21.9, 62.3, 21.0, 64.7, 50.7)),
        "triviaqa": ("TriviaQA", (None, 14.8, None, 22.8, 7.3, 39.1, 26.5)),
    },
)  # fmt: skip
GLM_SPEECH = PublishedTable(
    "ASR and TTS",
    "GLM-4-Voice, Table 5",
    ("CosyVoice", "whisper-large-v3", "GLM-4-Voice"),
    {
        "asr-librispeech": ("LibriSpeech test-clean", (None, 2.50, 2.82)),
        "asr-librispeech-other": ("LibriSpeech test-other", (None, 4.53, 7.66)),
        "asr-aishell-1": ("AISHELL-1", (None, 9.31, 2.46)),
        "tts-libritts": ("LibriTTS test-clean", (3.17, None, 5.64)),
        "seed-tts": ("Seed-TTS test-en", (3.39, None, 2.91)),
        "seed-tts-zh": ("Seed-TTS test-zh", (3.10, None, 2.10)),
    },
)
GLM_CODEC = PublishedTable(
    "Speech as units and said again from them, LibriSpeech",
    "GLM-4-Voice, Table 1",
    (
        "SpeechTokenizer 1.5k", "SpeechTokenizer 4k", "Mimi 1.1k", "GLM-4-Voice 12.5 Hz", "GLM-4-Voice 50 Hz",
        "GLM-4-Voice 25 Hz", "GLM-4-Voice 6.25 Hz",
    ),
    {
        "units/bitrate": ("Bits a second", (1500, 4000, 1100, 175, 600, 300, 100)),
        "reconstruction": ("WER", (9.97, 6.32, 8.36, 8.43, 6.24, 6.80, 14.41)),
        "reconstruction/visqol": ("ViSQOL", (1.53, 3.07, 2.82, 2.52, 2.67, 2.60, 2.34)),
    },
)  # fmt: skip
GLM_CHAT = PublishedTable(
    "Chat",
    "GLM-4-Voice, Table 6",
    ("SpeechGPT", "Mini-Omni", "Llama-Omni", "Moshi", "GLM-4-Voice"),
    {
        "general-qa": ("General QA, of 10", (1.40, 2.44, 3.50, 2.42, 5.40)),
        "knowledge": ("Knowledge, of 10", (2.20, 1.10, 3.90, 3.60, 5.20)),
        "general-qa/utmos": ("UTMOS", (3.86, 3.17, 3.92, 3.90, 4.45)),
        "general-qa/speech": ("ASR-WER", (66.57, 25.28, 9.18, 7.95, 5.74)),
    },
    frozenset({"general-qa/speech"}),
)
TABLES = (
    EMOVA_VISION, EMOVA_DIALOGUE, EMOVA_SPEECH, GLM_CODEC, GLM_STORIES, GLM_QUESTIONS, GLM_SPEECH, GLM_CHAT
)  # fmt: skip
