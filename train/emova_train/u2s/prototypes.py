"""Choose the style prototypes: ``emova train prototypes nano --detokenizer runs/u2s-nano/export``.

EMOVA (§3.2) lets an emotion recogniser choose, among candidate recordings of each style, the one that conveys it most
surely, and uses that one's style vector: ``--recogniser emotion2vec`` does the same. None can be had offline, where a
small one (``acoustic``) is fitted to acoustic correlates of the recipe's own recordings: F0 level, range and slope,
level, spectral tilt and brightness. It shortlists recordings it was not fitted to; among those, the one is taken whose
vector makes the decoder speak other sentences most surely in the style. What a decoder learns of a style is milder than
the recordings are, so the vector is also tried further away from the neutral one, as classifier-free guidance goes
further (Ho and Salimans 2022).

Shapes: N utterances, D features, L styles, S style channels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from emova.checkpoint.loading import checkpoint_styles
from emova.core.errors import InputError
from emova.core.writing import write_text
from emova.speech.detokenizer.protocol import SpeechDetokenizer
from emova.speech.style import DEFAULT_STYLES, Style, StylePrototypes, StyleSet
from emova_train.core.program import run_module
from emova_train.u2s.cache import HOP, SAMPLE_RATE, SpeechStore, measure_f0, ticks_of, tokenizer_hash
from emova_train.u2s.recognisers import (
    ACOUSTIC,
    AUTO,
    MODEL,
    RECOGNISERS,
    EmotionRecogniser,
    find_recogniser,
)


def acoustic_features(samples: np.ndarray, f0: np.ndarray) -> np.ndarray:
    """``[D]`` correlates of style in float samples at 24 kHz, with their F0 a 10 ms frame (0 where unvoiced)."""
    voiced = f0 > 0
    log_f0 = np.log2(f0[voiced]) * 12 if voiced.sum() >= 10 else np.zeros(10)
    low, middle, high = np.percentile(log_f0, [10, 50, 90])
    time = np.flatnonzero(voiced)[: len(log_f0)] / 100 if voiced.sum() >= 10 else np.arange(10) / 100
    slope = np.polyfit(time - time.mean(), log_f0, 1)[0] * (time[-1] - time[0])
    movement = np.abs(np.diff(log_f0)).mean()

    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 720)[::HOP] * np.hanning(720)
    power = np.abs(np.fft.rfft(frames, 1024)) ** 2 + 1e-10
    energy = 10 * np.log10(power.sum(axis=1))
    spectrum = power[energy > energy.max() - 35].mean(axis=0)
    hertz = np.fft.rfftfreq(1024, 1 / SAMPLE_RATE)

    def band(start: float, end: float) -> float:
        return float(10 * np.log10(spectrum[(hertz >= start) & (hertz < end)].mean()))

    speech = (hertz >= 300) & (hertz < 6000)
    tilt = np.polyfit(np.log2(hertz[speech]), 10 * np.log10(spectrum[speech]), 1)[0]
    level = 10 * np.log10(np.mean(samples.astype(np.float64) ** 2) + 1e-10)
    bands = band(80, 500), band(500, 2000), band(2000, 5000), band(5000, 10000)
    return np.array(
        [middle, high - low, log_f0.std(), slope, movement, level, tilt, *(part - bands[1] for part in bands)]
    )


class StyleClassifier:
    """Logistic regression of the styles on standardised features and their squares."""

    def __init__(self, features_ND: np.ndarray, labels_N: Sequence[int], classes: int) -> None:
        features = torch.tensor(features_ND, dtype=torch.float64)
        self._mean, self._spread = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
        inputs, labels = self._inputs(features), torch.tensor(list(labels_N))
        self._model = nn.Linear(inputs.shape[1], classes, dtype=torch.float64)
        nn.init.zeros_(self._model.weight)
        optimizer = torch.optim.LBFGS(self._model.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self._model(inputs), labels)
            loss = loss + 1e-3 * self._model.weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    def _inputs(self, features: Tensor) -> Tensor:
        scaled = ((features - self._mean) / self._spread).clamp(-4, 4)
        return torch.cat([scaled, scaled.square()], dim=1)

    @torch.no_grad()
    def log_probabilities(self, features_ND: np.ndarray) -> np.ndarray:
        """``[N, L]``"""
        inputs = self._inputs(torch.tensor(features_ND, dtype=torch.float64))
        return self._model(inputs).log_softmax(dim=1).numpy()


@dataclass(frozen=True)
class PrototypeReport:
    """What was chosen, and how surely: mean log-probability of the asked style over decoded sentences."""

    keys: dict[str, str]  # style -> utterance
    strengths: dict[str, float]  # style -> how far beyond that utterance's vector; 1 where it is taken as it is
    chosen_confidence: float
    mean_vector_confidence: float
    recordings_accuracy: float  # of the classifier on recordings it was not fitted to
    decoded_accuracy: float  # of the classifier on decoded sentences in the chosen styles


_SAME = 3
"""So many first letters tell an emotion's name: recognisers say anger, happiness, sadness."""
REPORT = "style_prototypes.json"


def _decoded_features(detokenizer: SpeechDetokenizer, units: Sequence[Tensor], vector_S: Tensor) -> np.ndarray:
    rows = []
    for sentence in units:
        samples = detokenizer.decode(sentence[None], vector_S[None])[0].numpy()
        rows.append(acoustic_features(samples, measure_f0((samples * 32767).astype(np.int16))))
    return np.stack(rows)


def choose_prototypes(
    detokenizer: SpeechDetokenizer, store: SpeechStore, *, candidates: int = 40, shortlist: int = 6, sentences: int = 4,
    fit_limit: int = 60, min_units: int = 25, strengths: Sequence[float] = (1.25, 1.5), seed: int = 0,
    styles: StyleSet = DEFAULT_STYLES,
) -> tuple[StylePrototypes, PrototypeReport]:  # fmt: skip
    """Top-1 of ``candidates`` recordings a style, of ``min_units`` or more; ``fit_limit`` others fit the classifier.

    The ``strengths`` stretch a style's distance from the plain one of its voice; recordings in other styles than
    ``styles`` are passed over.

    Raises:
        InputError: a style has no recordings.
    """
    rng = np.random.default_rng(seed)
    by_style: dict[Style, list[int]] = {style: [] for style in styles}
    for index, utterance in enumerate(store.utterances):
        style = Style(utterance.gender, utterance.emotion, utterance.pitch)
        if utterance.units >= min_units and style in by_style:
            by_style[style].append(index)
    fitted: list[tuple[int, int]] = []
    tried: dict[int, list[int]] = {}
    for label, style in enumerate(styles):
        found = by_style[style]
        if len(found) < 4:
            raise InputError(f"style {style.key}: {len(found)} recordings; at least 4 that are long enough are needed")
        order = [found[place] for place in rng.permutation(len(found))]
        half = min(candidates, len(order) // 2)
        tried[label] = order[:half]
        fitted += [(index, label) for index in order[half : half + fit_limit]]

    def features(indices: Sequence[int]) -> np.ndarray:
        return np.stack([acoustic_features(store.samples(index), store.f0(index)) for index in indices])

    classifier = StyleClassifier(features([index for index, _ in fitted]), [label for _, label in fitted], len(styles))
    neutral = [index for index in by_style[styles.default] if index not in set(tried[0])]  # the default comes first
    spoken = [torch.from_numpy(store.units(index)) for index in neutral[:sentences]]

    def spoken_in(vector: Tensor) -> np.ndarray:
        return classifier.log_probabilities(_decoded_features(detokenizer, spoken, vector))

    vectors: dict[str, Tensor] = {}
    keys: dict[str, str] = {}
    chosen_strengths: dict[str, float] = {}
    right, total, chosen_right, chosen_total = 0, 0, 0, 0
    chosen_scores, mean_scores = [], []
    neutral_first = sorted(enumerate(styles), key=lambda each: each[1] != styles.plain(each[1].gender))
    for label, style in neutral_first:
        scores = classifier.log_probabilities(features(tried[label]))
        right, total = right + int((scores.argmax(axis=1) == label).sum()), total + len(scores)
        best = [tried[label][place] for place in np.argsort(-scores[:, label])[:shortlist]]
        embedded = [detokenizer.embed_style(torch.from_numpy(store.samples(index))[None])[0] for index in best]
        heard = [spoken_in(vector) for vector in embedded]
        winner = int(np.argmax([rows[:, label].mean() for rows in heard]))
        vector, rows, strength = embedded[winner], heard[winner], 1.0
        neutral_style = styles.plain(style.gender)
        if style != neutral_style:
            start = vectors[neutral_style.key]
            for tried_strength in strengths:
                further = start + tried_strength * (embedded[winner] - start)
                if (louder := spoken_in(further))[:, label].mean() > rows[:, label].mean():
                    vector, rows, strength = further, louder, tried_strength
        vectors[style.key], keys[style.key] = vector, store.utterances[best[winner]].key
        chosen_strengths[style.key] = strength
        chosen_scores.append(rows[:, label].mean())
        chosen_right += int((rows.argmax(axis=1) == label).sum())
        chosen_total += len(spoken)
        mean_scores.append(spoken_in(torch.stack(embedded).mean(dim=0))[:, label].mean())
    report = PrototypeReport(
        keys, chosen_strengths, float(np.mean(chosen_scores)), float(np.mean(mean_scores)), right / total,
        chosen_right / chosen_total,
    )  # fmt: skip
    return StylePrototypes(vectors, styles), report


@dataclass(frozen=True)
class Choice:
    """The recording that a recogniser chose for a style, and how surely it heard its emotion there."""

    key: str
    confidence: float


def choose_by_recogniser(
    detokenizer: SpeechDetokenizer, store: SpeechStore, recogniser: EmotionRecogniser, *, candidates: int = 40,
    min_units: int = 25, seed: int = 0, styles: StyleSet = DEFAULT_STYLES,
) -> tuple[StylePrototypes, dict[str, Choice]]:  # fmt: skip
    """Top-1 of at most ``candidates`` recordings a style by the recogniser's confidence in its emotion (App. A.2).

    Raises:
        InputError: a style has no recordings, or the recogniser does not know its emotion.
    """
    rng = np.random.default_rng(seed)
    vectors: dict[str, Tensor] = {}
    chosen: dict[str, Choice] = {}
    for style in styles:
        found = [
            index for index, each in enumerate(store.utterances)
            if (each.gender, each.emotion, each.pitch) == (style.gender, style.emotion, style.pitch)
            and each.units >= min_units
        ]  # fmt: skip
        if not found:
            raise InputError(f"style {style.key}: no recordings that are long enough; make some of that style")
        tried = [found[place] for place in rng.permutation(len(found))[:candidates]]
        heard = [recogniser.confidences(store.samples(index), SAMPLE_RATE) for index in tried]
        known = {emotion for each in heard for emotion in each}
        name = next((each for each in sorted(known) if each[:_SAME] == style.emotion[:_SAME]), None)
        if name is None:
            raise InputError(
                f"style {style.key}: {recogniser.name} does not know the emotion {style.emotion}; it knows "
                f"{', '.join(sorted(known))}; give --recogniser acoustic"
            )
        best = max(range(len(tried)), key=lambda at: heard[at].get(name, 0.0))
        with torch.inference_mode():
            vectors[style.key] = detokenizer.embed_style(torch.from_numpy(store.samples(tried[best]))[None])[0].clone()
        chosen[style.key] = Choice(store.utterances[tried[best]].key, heard[best].get(name, 0.0))
    return StylePrototypes(vectors, styles), chosen


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train prototypes``."""
    parser.add_argument("config", help="the configuration that trained the detokenizer")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value")
    parser.add_argument("--detokenizer", required=True, help="folder of the trained detokenizer")
    parser.add_argument("--out", help="folder for style_prototypes.safetensors; the detokenizer's if not given")
    parser.add_argument(
        "--styles", help="a checkpoint or a stage's export whose styles are wanted; EMOVA's 24 if not given"
    )
    parser.add_argument(
        "--recogniser", default=AUTO, choices=RECOGNISERS,
        help="what chooses: emotion2vec (funasr, from a hub), acoustic (fitted to the recordings) or auto: emotion2vec "
        "where it can be had (default)",
    )  # fmt: skip
    parser.add_argument("--recogniser-model", default=MODEL, help="emotion2vec's name on the hub or folder")
    parser.add_argument("--candidates", type=int, default=40, help="recordings tried for each style")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    from emova.checkpoint.registry import load_detokenizer
    from emova.core.config import load_config
    from emova.speech.detokenizer.flow_hift.detokenizer import FlowHiFTDetokenizer
    from emova_train.flow.config import FlowRecipe
    from emova_train.u2s.config import U2SRecipe

    out = Path(arguments.out or arguments.detokenizer)
    if out.suffix == ".safetensors":
        raise InputError(f"--out {out}: give the folder; the file in it is called style_prototypes.safetensors")
    detokenizer = load_detokenizer(arguments.detokenizer)
    recipe: FlowRecipe | U2SRecipe
    if isinstance(detokenizer, FlowHiFTDetokenizer):
        recipe = load_config(FlowRecipe, arguments.config, arguments.overrides, kind="flow")
    else:
        recipe = load_config(U2SRecipe, arguments.config, arguments.overrides, kind="u2s")
    ticks = ticks_of(detokenizer.unit_rate)
    store = SpeechStore(recipe.data.train, recipe.data.cache, tokenizer_hash(recipe.data.tokenizer), ticks=ticks)
    styles = checkpoint_styles(arguments.styles) if arguments.styles else DEFAULT_STYLES
    recogniser = find_recogniser(arguments.recogniser, arguments.recogniser_model)
    if recogniser is not None:
        prototypes, chosen = choose_by_recogniser(
            detokenizer, store, recogniser, candidates=arguments.candidates, styles=styles
        )
        name, told = recogniser.name, {style: asdict(choice) for style, choice in chosen.items()}
        lines = [f"{style}: {choice.key}, confidence {choice.confidence:.3f}" for style, choice in chosen.items()]
    else:
        prototypes, report = choose_prototypes(detokenizer, store, candidates=arguments.candidates, styles=styles)
        name = ACOUSTIC
        told = {style: {"key": key, "strength": report.strengths[style]} for style, key in report.keys.items()}
        lines = [f"{style}: {each['key']}, strength {each['strength']:g}" for style, each in told.items()]
        lines.append(
            f"log-probability of the asked style: chosen {report.chosen_confidence:.3f}, mean of the shortlist "
            f"{report.mean_vector_confidence:.3f}; classifier right on recordings {report.recordings_accuracy:.3f}, "
            f"on decoded speech {report.decoded_accuracy:.3f}"
        )
    out.mkdir(parents=True, exist_ok=True)
    prototypes.save(out)
    write_text(out / REPORT, json.dumps({"recogniser": name, "chosen": told}, indent=1) + "\n")
    print("\n".join([f"chosen by {name}", *lines]))
    return 0


def main() -> int:
    return run_module(register, "emova_train.u2s.prototypes", "Choose the style prototypes.")


if __name__ == "__main__":
    sys.exit(main())
