"""Mandarin text as it is said: numbers, tones, words inside words of English, and what Kokoro is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emova.speech.style import Style
from emova.speech.tokenizer.phones import DEFAULT_PHONES
from emova_data.mandarin.g2p import phones, words
from emova_data.mandarin.normalise import normalise
from emova_data.mandarin.symbols import pinyin, symbols
from emova_data.nano.voices.restyle import restyle
from emova_data.nano.voices.styles import Rendering, rendering
from emova_data.nano.voices.voices import KOKORO_MANDARIN, gender_of, is_mandarin
from emova_data.synthesis.speech_text import spoken
from emova_data.synthesis.tts import Speaker, speakers
from emova_train.data.phrasings import (
    SPEAK_PHRASINGS,
    SPEAK_PHRASINGS_ZH,
    TRANSCRIBE_PHRASINGS_ZH,
    speak_phrasings,
    transcribe_phrasings,
)


def read(text: str) -> str:
    """As pinyin with tones, an r behind a coloured syllable."""
    return "".join(f"{pinyin(each)}{'r' * each.er}" for _, made in words(text) for each in made)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("今天25度。", "今天二十五度。"),
        ("这本书3.5元", "这本书三点五元"),
        ("2024年5月1日上午9:30", "二零二四年五月一日上午九点三十分"),
        ("气温-3℃", "气温负三摄氏度"),
        ("增长了15%", "增长了百分之十五"),
        ("你有2个苹果吗？", "你有两个苹果吗？"),
        ("5kg苹果", "五千克苹果"),
        ("12.5GB", "十二点五GB"),
        ("GPT-4很好", "GPT 四很好"),
        ("约1/2", "约二分之一"),
        ("没有数字，一个字也不变：（好）", "没有数字，一个字也不变：（好）"),
    ],
)
def test_numbers_are_read_as_chinese(written: str, said: str) -> None:
    assert normalise(written) == said
    assert normalise(said) == said


def test_what_the_voices_say_has_its_numbers_in_words() -> None:
    assert spoken("今天25度，这个3.5元。", 60) == "今天二十五度，这个三点五元。"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("你好", "ni2hao3"), ("老虎", "lao2hu3"), ("纸老虎", "zhi3lao2hu3"),
        ("我想买五把雨伞", "wo2xiang3mai3wu2ba3yu2san3"),
        ("不是", "bu2shi4"), ("不好", "bu4hao3"), ("一定", "yi2ding4"), ("一天", "yi4tian1"), ("第一", "di4yi1"),
        ("看一看", "kan4yi5kan4"), ("一九九八年", "yi1jiu2jiu3ba1nian2"), ("三点一四", "san1dian3yi1si4"),
        ("银行行长", "yin2hang2hang5zhang3"), ("行走", "xing2zou3"), ("重要", "zhong4yao4"), ("重新", "chong2xin1"),
        ("慢慢地走", "man4man4de5zou3"), ("朋友们", "peng2you5men5"), ("东西", "dong1xi5"), ("他走了", "ta1zou3le5"),
        ("一会儿", "yi2hui4r"), ("这儿", "zhe4r"), ("女儿", "nü3er2"), ("儿子", "er2zi5"),
    ],
)  # fmt: skip
def test_tones_are_those_that_are_said(text: str, said: str) -> None:
    assert read(text) == said


def test_every_sound_has_its_phone_and_its_symbol() -> None:
    text = (
        "床前明月光，疑是地上霜。举头望明月，低头思故乡。儿子翁哟嗯欸，熊猫用雨伞，优秀的女儿略有论文，"
        "云日而次资出学居安宋东温为一会儿"
    )
    assert not DEFAULT_PHONES.ids(phones(text)).unknown
    found = phones("一会儿")
    assert found == ["zh:i2", "zh:h", "zh:ui4", "zh:er5"]
    told = symbols(text)
    assert told and not any("\u3400" <= character <= "\u9fff" or character.isdigit() for character in told)


def test_english_words_in_a_chinese_sentence_are_english() -> None:
    found = phones("我用app写了3个。")
    assert found[:4] == ["zh:uo3", "zh:iong4", "æ", "p"] and found[-3:] == ["zh:an1", "zh:g", "zh:e5"]
    assert not DEFAULT_PHONES.ids(found).unknown
    assert "æ" in symbols("我用app写。")


def test_labels_and_the_voice_come_from_the_same_syllables() -> None:
    """Sandhi and numbers in the one are in the other: nothing is taught that is not said."""
    assert symbols("你好25") == symbols("你好二十五") and phones("你好25") == phones("你好二十五")
    assert symbols("你").endswith("↓") and symbols("你好").startswith("ni↗")


def test_each_speaker_has_a_mandarin_voice_of_the_same_gender() -> None:
    for speaker in speakers():
        assert speaker.kokoro_zh in KOKORO_MANDARIN and is_mandarin(f"kokoro/{speaker.kokoro_zh}")
        assert gender_of(f"kokoro/{speaker.kokoro_zh}") == speaker.gender
    assert not is_mandarin("kokoro/af_heart") and len({s.kokoro_zh for s in speakers()}) == 8


def test_a_style_changes_the_voice_and_not_its_times() -> None:
    rate = 24000
    time = np.arange(2 * rate) / rate
    buzz = sum(np.cos(2 * np.pi * 180 * k * time) / k for k in range(1, 30)) * np.clip(np.sin(6 * time), 0.02, 1)
    sound = (0.1 * buzz).astype(np.float32)
    rng = np.random.default_rng(0)
    assert np.array_equal(restyle(sound, rate, Rendering(), rng), sound)
    made = {pair: restyle(sound, rate, rendering(*pair), rng) for pair in (("neutral", "high"), ("neutral", "low"),
            ("angry", "normal"), ("sad", "normal"))}  # fmt: skip
    assert all(each.shape == sound.shape and np.isfinite(each).all() for each in made.values())

    def pitch(samples: np.ndarray) -> float:
        frame = samples[4000:12192] * np.hanning(8192)
        power = np.abs(np.fft.rfft(frame, 1 << 15)) ** 2
        correlation = np.fft.irfft(power)[: rate // 60]
        return rate / (int(correlation[80:].argmax()) + 80)

    assert pitch(made["neutral", "high"]) == pytest.approx(180 * 1.25, rel=0.05)
    assert pitch(made["neutral", "low"]) == pytest.approx(180 * 0.8, rel=0.05)
    loud = {name: float(np.sqrt(np.mean(np.square(each)))) for name, each in made.items()}
    assert loud["angry", "normal"] > 2 * loud["sad", "normal"]


def test_prompts_are_in_the_language_of_the_words() -> None:
    assert transcribe_phrasings("今天很好，OK？") is TRANSCRIBE_PHRASINGS_ZH
    assert speak_phrasings("你好") is SPEAK_PHRASINGS_ZH and speak_phrasings("OK 你") is SPEAK_PHRASINGS_ZH
    assert speak_phrasings("The word 你 means you.") is SPEAK_PHRASINGS and speak_phrasings("") is SPEAK_PHRASINGS


def test_words_of_another_language_are_no_labels(tmp_path: Path) -> None:
    import soundfile

    from emova_data.records.records import BadRecord
    from emova_data.sources.converters.speech import speech_record

    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).standard_normal(16000) * 0.1, 16000)
    with pytest.raises(BadRecord, match="another language"):
        speech_record("a", tmp_path / "a.wav", "今天很好", {"g2p": "en", "language": "zh"})
    made = speech_record("a", tmp_path / "a.wav", "今天25度", {"g2p": "auto", "language": "zh"})
    assert made.extra["phones"] == phones("今天二十五度") and made.extra["text"] == "今天25度"


def test_styles_of_mandarin_are_kokoros(tmp_path: Path) -> None:
    from emova.core.errors import InputError
    from emova_data.records.records import BadRecord
    from emova_data.synthesis.styles import StyledSpeechConfig, StylesConfig, recording

    class Voice:
        languages: tuple[str, ...] = ("en", "zh")
        asked: list[tuple[str, str, str]] = []

        def speak(
            self, words: str, speaker: Speaker, emotion: str, pitch: str, language: str, seed: int
        ) -> tuple[np.ndarray, int]:
            self.asked.append((speaker.kokoro_zh, emotion, language))
            return np.sin(np.arange(24000) * 0.1).astype(np.float32), 24000

    config, voice = StylesConfig(speech=StyledSpeechConfig(backend="kokoro")), Voice()
    made = recording("a", "今天25度。", Style("female", "happy", "high"), config, voice)
    assert voice.asked == [("zf_xiaobei", "happy", "zh")] and made.extra["phones"] == phones("今天二十五度。")
    json.dumps(made.extra)
    with pytest.raises(BadRecord, match="no styles"):
        recording("b", "Hello there.", Style("female", "happy", "high"), config, voice)
    with pytest.raises(InputError, match="have no styles"):
        StylesConfig(speech=StyledSpeechConfig(backend="piper"))
