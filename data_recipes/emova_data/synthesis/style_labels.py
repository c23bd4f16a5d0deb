"""How a user would say a question and an assistant its answer (EMOVA §4.2): by a language model or by rules."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Protocol

from emova.speech.style import DEFAULT_STYLES
from emova_data.records.records import BadRecord
from emova_data.synthesis.endpoint import Endpoint


@dataclass(frozen=True)
class Labels:
    """Styles of one exchange."""

    user_gender: str
    user_emotion: str
    user_pitch: str
    emotion: str
    pitch: str


class Labeller(Protocol):
    """Anything that infers styles."""

    def label(self, question: str, answer: str) -> Labels:
        """Raises: BadRecord: no usable labels."""


PROMPT = """\
You are casting a spoken conversation. Read what the user says and what the assistant answers, and decide how a person
would naturally say each of them. Most everyday talk is neutral with a normal pitch; choose something else only where
the words give a reason.
Give a JSON object and nothing else, with these keys:
"user gender": {genders}
"user emotion", "assistant emotion": {emotions}
"user pitch", "assistant pitch": {pitches}

User: {question}
Assistant: {answer}"""

_WORDS = {
    "angry": r"\b(?:angry|furious|outrage\w*|unacceptable|ridiculous|fed up|hate|stop it|sick of|terrible service)\b"
             r"|气死|愤怒|可恶|受不了|太过分|投诉",
    "sad": r"\b(?:sad|sorry|passed away|died|lonely|miss (?:him|her|them|you)|cry\w*|grief|heartbroken|lost my"
           r"|depress\w*|unfortunately|disappoint\w*)\b|难过|伤心|去世|孤独|抱歉|遗憾|失望|可惜",
    "happy": r"\b(?:great|wonderful|congratulations|love|happy|excited|awesome|thank you|fun|beautiful|delightful"
             r"|glad)\b|高兴|开心|太好了|恭喜|喜欢|谢谢|美丽|精彩|快乐",
}  # fmt: skip
_RULES = {emotion: re.compile(pattern, re.I) for emotion, pattern in _WORDS.items()}


def emotion_of(words: str) -> str:
    """The emotion that the words name, strongest kind first; neutral where there is none."""
    return next((emotion for emotion, pattern in _RULES.items() if pattern.search(words)), "neutral")


def pitch_of(words: str, emotion: str) -> str:
    """High for excitement and exclamations, low for sadness in quiet sentences, else normal."""
    if emotion in ("happy", "angry") and re.search(r"[!！]", words):
        return "high"
    return "low" if emotion == "sad" and not re.search(r"[!！?？]", words) else "normal"


class RuleLabeller:
    """Labels from words and marks: no network. An answer to sadness or anger is calm or kind, never angry."""

    def label(self, question: str, answer: str) -> Labels:
        user = emotion_of(question)
        own = emotion_of(answer)
        emotion = "sad" if user == "sad" and own != "happy" else "neutral" if own == "angry" else own
        gender = DEFAULT_STYLES.voices[hashlib.sha256(question.encode()).digest()[0] % len(DEFAULT_STYLES.voices)]
        return Labels(gender, user, pitch_of(question, user), emotion, pitch_of(answer, emotion))


class EndpointLabeller:
    """Labels from any OpenAI-compatible chat endpoint.

    Args:
        address: such as ``http://127.0.0.1:8000/v1``.
        model: its name there.
        key_variable: environment variable that holds the key; an unset one sends none.
        attempts: requests before the record is left out.
    """

    def __init__(
        self, address: str, model: str, key_variable: str = "OPENAI_API_KEY", attempts: int = 3, wait: float = 1.0,
        timeout: float = 60.0,
    ) -> None:  # fmt: skip
        self.endpoint = Endpoint(address, model, key_variable, attempts, wait, timeout, section="labels")

    def label(self, question: str, answer: str) -> Labels:
        prompt = PROMPT.format(
            genders=", ".join(DEFAULT_STYLES.voices),
            emotions=", ".join(DEFAULT_STYLES.emotions),
            pitches=", ".join(DEFAULT_STYLES.pitches),
            question=question,
            answer=answer,
        )
        found = self.endpoint.ask(prompt, parse_labels)
        if found is None:
            raise BadRecord("no labels from the endpoint")
        return found


def parse_labels(content: str) -> Labels | None:
    """Labels from a model's answer, fenced or not; None when a key is missing or a word is not one of ours."""
    match = re.search(r"\{.*\}", content, re.S)
    try:
        raw: object = json.loads(match[0]) if match else None
    except json.JSONDecodeError:
        return None
    if not isinstance(raw, dict):
        return None
    emotions, pitches = DEFAULT_STYLES.emotions, DEFAULT_STYLES.pitches
    keys = {"user gender": DEFAULT_STYLES.voices, "user emotion": emotions, "user pitch": pitches}
    keys |= {"assistant emotion": emotions, "assistant pitch": pitches}
    values = [str(raw.get(key, "")).strip().lower() for key in keys]
    if any(value not in options for value, options in zip(values, keys.values(), strict=True)):
        return None
    return Labels(*values)
