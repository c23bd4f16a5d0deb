"""Train the supervised speech tokenizer: ``emova train vq nano key=value ...``.

GLM-4-Voice's (Zeng et al. 2024, §3.1): a Whisper whose convolutions and attention are made causal, whose middle is
pooled and quantised, learns to recognise speech anew through the quantised middle. The codebook follows its vectors by
a moving average and codes that fall out of use begin again at vectors of the batch; what lies behind the middle is of
training alone. The model is ``WhisperVQTokenizer``, the class that reads the release too.

Shapes: B clips, T samples, U units, D width, N vectors, L text tokens, P phones.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from vector_quantize_pytorch import VectorQuantize

from emova.checkpoint.loading import find_part
from emova.core.config import load_config, save_config
from emova.core.errors import InputError
from emova.core.levenshtein import edit_distance
from emova.speech.tokenizer.phone_decoder import PhoneDecoderConfig
from emova.speech.tokenizer.phones import BLANK
from emova.speech.tokenizer.whisper_vq.encoder import EncoderConfig
from emova.speech.tokenizer.whisper_vq.reader import LEAST_TOKENS, TOKENS_A_SECOND, WhisperReader
from emova.speech.tokenizer.whisper_vq.tokenizer import WhisperVQConfig, WhisperVQTokenizer
from emova_train.core.config import DDP, RunConfig
from emova_train.core.loop import FitResult, fit
from emova_train.core.optimizer import decay_groups
from emova_train.core.program import add_config, run_module, run_training
from emova_train.core.protocols import ParameterGroup, StreamedSet
from emova_train.core.resumed import CONFIG, earlier_config, told
from emova_train.data.clip_reader import StreamConfig
from emova_train.data.shard_cache import SAMPLE_RATE, fill_cache
from emova_train.distributed import world as parallel
from emova_train.s2u.data import unwrap
from emova_train.vq.data import TextBatches, TextClip, TextSet, TextSource, TextStore, balanced, decode_texts, streamed
from emova_train.vq.reader import reader_of
from emova_train.vq.teacher import Teacher
from emova_train.vq.whisper import Whisper, block_state, load_whisper


def nano_model() -> WhisperVQConfig:
    """Half of Whisper tiny's encoder, 12.5 units a second of 4,096, blocks of 0.96 s."""
    encoder = EncoderConfig(
        mels=80, width=384, heads=6, ffn=1536, layers=2, positions=1500, block=48, left_blocks=5, pooling=4, codes=4096
    )
    return WhisperVQConfig(
        encoder=encoder, running_floor=True, reads_phones=True, decoder=PhoneDecoderConfig(labels_per_unit=4)
    )


@dataclass(frozen=True)
class VQTrainConfig:
    """Everything a run needs; paths are relative to the working directory.

    Attributes:
        whisper: a folder of transformers, its name on a hub, or a CTranslate2 model: what is fine-tuned.
        language: of the speech, for a Whisper that knows several; that of sources which name no other.
        labels: the folder of a Whisper's words for sources with ``pseudo``.
        pseudo_ratio: pseudo-labelled clips for a labelled one; 0 takes the sources as they are.
        decay: of the codebook's moving average, a step: the passes of a step move it together.
        commitment: weight of the vectors' distance to their codes.
        teacher: weight of the distance between what Whisper's decoder hears through the units and what it heard before,
            from Whisper's own encoder, which sees all of a clip at once (a mean over a unit's frames); 0: without.
        restart_below: mean vectors of a step, of all its passes and processes, below which a code is begun again.
        phone_weight: of the phone decoder's CTC loss, whose gradient ends at the codes: it only measures them.
        batch_seconds: of speech in a pass.
        max_seconds: longer clips are left out.
        perturbed: share of clips that are heard through rooms, microphones and noise.
        head_rate: the learning rate of the decoder and the layers behind the codebook over that of the others.
        phone_rate: that of the phone decoder, which begins from nothing.
        start_from: an exported tokenizer to go on from; what lies behind the codebook begins as Whisper's again.
        validation: patterns of shards; the first ``validation_clips`` of each family are read.
        validation_languages: of those of the patterns whose speech is not in ``language``.
    """

    model: WhisperVQConfig = field(default_factory=nano_model)
    run: RunConfig = field(default_factory=lambda: RunConfig(output_dir="runs/vq", batch_size=1))
    whisper: str = ""
    language: str = "en"
    train: list[TextSource] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    validation_languages: dict[str, str] = field(default_factory=dict)
    validation_clips: int = 20
    cache: str = "data/cache/vq"
    labels: str = ""
    pseudo_ratio: float = 3.0
    decay: float = 0.99
    commitment: float = 10.0
    teacher: float = 0.0
    restart_below: float = 0.01
    phone_weight: float = 0.3
    batch_seconds: float = 60.0
    max_seconds: float = 16.0
    perturbed: float = 0.5
    head_rate: float = 1.0
    phone_rate: float = 5.0
    start_from: str = ""
    stream: StreamConfig = field(default_factory=StreamConfig)

    def __post_init__(self) -> None:
        for pattern in self.validation_languages:
            if pattern not in self.validation:
                raise InputError(f"validation_languages: {pattern} is no pattern of validation; give one of those")


LEARNT = (
    "train", "language", "labels", "pseudo_ratio", "decay", "commitment", "teacher", "restart_below", "batch_seconds",
    "max_seconds", "perturbed",
)  # fmt: skip
"""Fields that say what is learnt, and how; a run that goes on with others is told so."""


def differences(config: VQTrainConfig) -> list[str]:
    """What a run that goes on learns otherwise than it began: lines for whoever started it."""
    earlier = earlier_config(VQTrainConfig, config.run)
    if earlier is None:
        return []
    now, before = (
        asdict(replace(each, train=[replace(at, language=at.language or each.language) for at in each.train]))
        for each in (config, earlier)
    )
    changed = [f"{name}: {before[name]} -> {now[name]}" for name in LEARNT if now[name] != before[name]]
    return told(config.run.output_dir, changed)


class VQTraining(nn.Module):
    """The tokenizer with what only training needs: the moving codebook, the reader, losses.

    Args:
        passes: forward passes a step. The codes of all are counted, and the codebook moves with the last of them, so
            that ``decay`` and ``restart_below`` mean the same however a step's batch is cut.
    """

    unused_parameters = True  # the phone decoder learns only where a clip has phones

    def __init__(
        self, model: WhisperVQTokenizer, reader: WhisperReader, config: VQTrainConfig, teacher: Teacher | None = None,
        passes: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.passes, self._passed = passes, 0
        self.model, self.reader, self.weights = model, reader, config
        self.teacher = teacher  # no module: it is not learnt or written with the rest
        encoder = model.config.encoder
        model.encoder.codebook.weight.requires_grad_(False)  # it follows its vectors, not a gradient
        self.quantizer = VectorQuantize(
            dim=encoder.width, codebook_size=encoder.codes, decay=config.decay, commitment_weight=config.commitment,
            threshold_ema_dead_code=config.restart_below, rotation_trick=False,
        )  # fmt: skip
        self.quantizer.codebook = model.encoder.codebook.weight.detach()
        self.quantizer._codebook.embed_avg.copy_(self.quantizer._codebook.embed)

    @torch.no_grad()
    def start_codes(self, vectors_ND: Tensor, mean_use: float) -> None:
        """Put codes on vectors; each counts as used ``mean_use`` times a step, so that all have time to be used."""
        book = self.quantizer._codebook
        wanted = len(book.embed[0])
        order = torch.randperm(len(vectors_ND))
        chosen_ND = vectors_ND[order.repeat(-(-wanted // len(order)))[:wanted]].float()
        if wanted > len(vectors_ND):  # equal codes would share one fate
            chosen_ND = chosen_ND + torch.randn_like(chosen_ND) * vectors_ND.std(0) * 0.05
        use = max(mean_use, 2 * self.weights.restart_below)
        book.embed.copy_(chosen_ND[None])
        book.cluster_size.fill_(use)
        book.embed_avg.copy_(chosen_ND[None] * use)
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """The moving codebook becomes the tokenizer's."""
        self.model.encoder.codebook.weight.copy_(self.quantizer.codebook)

    def forward(
        self, samples: Tensor, lengths: Tensor, tokens: Tensor, targets: Tensor, phones: Tensor, phone_lengths: Tensor
    ) -> dict[str, Tensor]:
        """The losses of one batch of ``TextBatches``."""
        model, config = self.model, self.weights
        vectors_BUD = model(samples, lengths)
        units_B = -(-lengths // model.unit_samples)
        inside_BU = torch.arange(vectors_BUD.shape[1], device=units_B.device)[None] < units_B[:, None]
        with torch.autocast(samples.device.type, enabled=False):
            vectors_ND = vectors_BUD.float()[inside_BU]
            last = (self._passed + 1) % self.passes == 0
            codes_1ND, indices_1N, commitment = self.quantizer(vectors_ND[None], accum_ema_update=not last)
        if self.training:
            self._passed = (self._passed + 1) % self.passes
            self.publish()
        codes_BUD = torch.zeros_like(vectors_BUD, dtype=codes_1ND.dtype)
        codes_BUD[inside_BU] = codes_1ND[0]
        heard_BUD = self.reader.encode(codes_BUD, inside_BU)
        words = self.reader(heard_BUD, inside_BU, tokens, targets)
        terms = {"words": words, "commitment": commitment / config.commitment if config.commitment else commitment}
        loss = words + commitment
        if self.teacher is not None:
            terms["teacher"] = self.teacher.distance(samples, lengths, heard_BUD, inside_BU)
            loss = loss + config.teacher * terms["teacher"]
        known_B = phone_lengths > 0
        if model.phone_decoder is not None and bool(known_B.any()):
            logits = model.phone_decoder(model.phone_features(codes_BUD.detach()), units_B)
            per = model.phone_decoder.config.labels_per_unit
            readings = [
                functional.ctc_loss(
                    reading[known_B].float().log_softmax(-1).transpose(0, 1), phones[known_B], units_B[known_B] * per,
                    phone_lengths[known_B], blank=BLANK, zero_infinity=True,
                )
                for reading in (logits.ctc, logits.frame)
            ]  # fmt: skip
            terms["phones"] = readings[0]
            loss = loss + config.phone_weight * (readings[0] + readings[1])
        used = torch.bincount(indices_1N[0], minlength=model.codebook_size).float()
        terms["codebook_perplexity"] = torch.special.entr(used / used.sum().clamp(min=1)).sum().exp()
        book = self.quantizer._codebook.cluster_size[0]
        terms["codes_in_use"] = (book > 2 * config.restart_below).float().mean()
        return {"loss": loss.squeeze(), **terms, "seconds": lengths.sum() / SAMPLE_RATE}


@torch.no_grad()
def fill(model: WhisperVQTokenizer, whisper: Whisper) -> None:
    """Put the first layers of Whisper's encoder into the tokenizer's. Raises: InputError: the shapes differ."""
    encoder, config = model.encoder, model.config.encoder
    given = whisper.config
    theirs = (given.num_mel_bins, given.d_model, given.encoder_attention_heads, given.encoder_ffn_dim)
    if (config.mels, config.width, config.heads, config.ffn) != theirs or config.layers >= given.encoder_layers:
        raise InputError(
            f"whisper: its encoder has mels, width, heads, ffn {theirs} and {given.encoder_layers} layers; give "
            "model.encoder the same, and fewer layers"
        )
    if config.positions > given.max_source_positions:
        raise InputError(f"model.encoder.positions={config.positions}: Whisper knows {given.max_source_positions}")
    for name in ("conv1", "conv2"):
        state = {kind: whisper.state[f"encoder.{name}.{kind}"] for kind in ("weight", "bias")}
        getattr(encoder, name).load_state_dict(state)
    encoder.positions.weight.copy_(whisper.state["encoder.embed_positions.weight"][: config.positions])
    for index, layer in enumerate(encoder.layers):
        layer.load_state_dict(block_state(whisper, index))


def build(config: VQTrainConfig, whisper: Whisper, passes: int = 1) -> VQTraining:
    """A fresh tokenizer from Whisper, with the rest of Whisper behind it.

    Args:
        passes: forward passes of a process a step.

    Raises:
        InputError: the shapes differ, or Whisper does not know a language.
    """
    torch.manual_seed(config.run.seed)
    model = WhisperVQTokenizer(config.model)
    fill(model, whisper)
    if config.start_from:
        before = WhisperVQTokenizer.from_pretrained(find_part(config.start_from, "speech_tokenizer"))
        if before.config != config.model:
            raise InputError(f"{config.start_from}: its model is not the config's; give the same model")
        model.load_state_dict(before.state_dict())
    encoder = config.model.encoder
    block = encoder.block // encoder.pooling
    spoken = [config.language, *(source.language for source in config.train if source.language)]
    prompts = {language: whisper.text.prompt_in(language) for language in spoken}
    reader = reader_of(whisper, encoder.layers, encoder.pooling, block, prompts)
    teacher = Teacher(whisper, encoder.pooling) if config.teacher else None
    return VQTraining(model, reader, config, teacher, passes)


@torch.inference_mode()
def first_vectors(training: VQTraining, batches: Sequence[dict[str, Tensor]]) -> tuple[Tensor, float]:
    """Vectors ``[N, D]`` of some batches, and how many a batch has."""
    found = []
    for batch in batches:
        vectors_BUD = training.model(batch["samples"], batch["lengths"])
        units_B = -(-batch["lengths"] // training.model.unit_samples)
        found.append(vectors_BUD[torch.arange(vectors_BUD.shape[1])[None] < units_B[:, None]])
    vectors_ND = torch.cat(found).clone()
    return vectors_ND, len(vectors_ND) / len(batches)


def select(clips: Sequence[TextClip], count: int) -> list[TextClip]:
    """At most ``count`` clips of each family, spread over all there are."""
    families: dict[str, list[TextClip]] = defaultdict(list)
    for clip in clips:
        families[clip.family].append(clip)
    return [clip for group in families.values() for clip in group[:: max(1, len(group) // count)][:count]]


def words_of(text: str) -> list[str]:
    """The words as they are compared: small letters without marks; characters where there are no spaces."""
    plain = "".join(mark for mark in text.lower() if mark.isalnum() or mark.isspace() or mark == "'")
    return plain.split() if " " in plain.strip() or plain.isascii() else list(plain)


@torch.inference_mode()
def measure(training: VQTraining, whisper: Whisper, store: TextStore, clips: Sequence[TextClip]) -> dict[str, float]:
    """Word errors of the reader and phone errors of the phone decoder, both from the units, by family; codebook use."""
    model, text = training.model, whisper.text
    wrong: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    used = torch.zeros(model.codebook_size, device=model.device)
    for clip in clips:
        (units_U,) = model.encode(torch.from_numpy(store.samples(clip))[None].to(model.device))
        used += torch.bincount(units_U, minlength=model.codebook_size)
        inside_1U = torch.ones(1, len(units_U), dtype=torch.bool, device=model.device)
        heard_1UD = training.reader.encode(model.encoder.codebook(units_U[None]), inside_1U)
        limit = LEAST_TOKENS + clip.length * TOKENS_A_SECOND // SAMPLE_RATE
        (tokens,) = training.reader.words.read(heard_1UD, inside_1U, text.prompt_in(clip.language), text.end, [limit])
        pairs = [("word_error", words_of(clip.text), words_of(text.decode(tokens)))]
        if model.phone_decoder is not None and clip.phones:
            known = model.inventory.names(model.inventory.ids(clip.phones).ids)
            pairs.append(("phone_error", known, model.phones([units_U])[0]))
        for kind, wanted, read in pairs:
            wrong[f"{kind}/{clip.family}"] += edit_distance(wanted, read)
            total[f"{kind}/{clip.family}"] += len(wanted)
    result = {name: wrong[name] / max(1, total[name]) for name in sorted(total)}
    result["codebook_perplexity"] = float(torch.special.entr(used / used.sum().clamp(min=1)).sum().exp())
    return result


def train(config: VQTrainConfig) -> FitResult:
    """Run the training; the tokenizer is exported to ``run.output_dir``/export at each validation and at the end.

    Raises:
        InputError: shards, labels or the Whisper model are missing, or shapes do not fit.
    """
    if not config.train or not config.whisper:
        raise InputError("train and whisper: name shards and a Whisper model; see the shipped config vq/nano")
    if any(source.pseudo for source in config.train) and not config.labels:
        raise InputError("labels: name the folder that `emova train pseudo-labels` wrote")
    if config.run.parallel.strategy != DDP:
        raise InputError("run.parallel.strategy: the codebook is no parameter that could be shared out; give ddp")
    world = parallel.start(config.run.parallel)
    run = parallel.resolved(config.run, world)
    output = Path(config.run.output_dir)
    whisper = load_whisper(config.whisper, config.language)
    training = build(config, whisper, run.gradient_accumulation)
    held_sources = [TextSource(each, language=config.validation_languages.get(each, "")) for each in config.validation]
    for source in held_sources:  # an unknown language ends the run here, not at its first validation
        whisper.text.prompt_in(source.language)
    if world.main:
        for line in differences(config):
            print(line, file=sys.stderr)
        output.mkdir(parents=True, exist_ok=True)
        save_config(config, output / CONFIG)
    model = training.model
    make = TextBatches(whisper.text, model.inventory, model.unit_samples, config.perturbed)
    cached = [] if config.stream.enabled else [source.pattern for source in config.train]
    fill_cache(decode_texts, [*cached, *config.validation], config.cache, world.rank, world.size)
    with world.patience(config.run.parallel):
        world.barrier()
    train_set: StreamedSet | TextSet
    seconds = config.batch_seconds
    if config.stream.enabled:
        train_set = streamed(
            config.train, config.labels, config.pseudo_ratio, make, seconds, config.max_seconds, config.stream
        )
        first = iter(train_set.batches(unwrap, replace(run, max_steps=1, gradient_accumulation=1, workers=0)))
        warm = [next(first)]
        print(f"{len(train_set)} recordings, streamed", file=sys.stderr)
    else:
        store = TextStore(config.train, config.cache, config.labels, config.max_seconds)
        counts = np.bincount(store.source, minlength=len(config.train)).tolist()
        repeats = balanced(config.train, counts, config.pseudo_ratio)
        batches = run.max_steps * run.gradient_accumulation * world.size
        train_set = TextSet(store, repeats, batches, seconds, run.seed, make)
        wanted = -(-model.codebook_size // max(1, round(seconds * model.unit_rate)))
        warm = [train_set[index] for index in range(min(wanted, 8, len(train_set)))]
        print(f"{len(store.clips)} clips, {sum(c.length for c in store.clips) / 57.6e6:.1f} h", file=sys.stderr)
    if not config.start_from:
        vectors_ND, mean_use = first_vectors(training, [dict(batch) for batch in warm])
        passes = run.gradient_accumulation * world.size
        training.start_codes(vectors_ND, mean_use * passes / model.codebook_size)
    held_out, clips = None, list[TextClip]()
    if config.validation:
        held_out = TextStore(held_sources, config.cache, config.labels, config.max_seconds)
        clips = select(held_out.clips, config.validation_clips)

    def export() -> None:
        training.publish()
        model.save_pretrained(output / "export")
        training.reader.save(output / "export", whisper.text.json)

    def validate(module: nn.Module, step: int) -> dict[str, float]:
        export()
        return measure(training, whisper, held_out, clips) if held_out else {}

    def groups(module: nn.Module) -> list[ParameterGroup]:
        # Each is clipped by itself: the phone decoder's large gradients must not slow the others down.
        phones = nn.ModuleList(each for each in (model.phone_codes, model.phone_decoder) if each is not None)
        named = (("tokenizer", model.encoder, 1.0), ("reader", training.reader, config.head_rate),
                 ("phones", phones, config.phone_rate))  # fmt: skip
        return [
            group
            for name, part, share in named
            for group in decay_groups(
                part, run.weight_decay, lr=run.learning_rate * share, name=name, max_grad_norm=run.max_grad_norm
            )
        ]

    result = fit(training, train_set, unwrap, run, parameter_groups=groups, on_validate=validate)
    if world.main:
        export()
    world.barrier()
    return result


def register(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``emova train vq``."""
    add_config(parser, "nano")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The command behind ``register``."""
    config = load_config(VQTrainConfig, arguments.config, arguments.overrides, kind="vq")
    return run_training(train, config, config.run.parallel)


def main() -> int:
    return run_module(register, "emova_train.vq.program", "Train the supervised speech tokenizer.")


if __name__ == "__main__":
    sys.exit(main())
