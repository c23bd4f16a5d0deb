"""EmovaConfig: the parts' shapes and kinds, the ids of special tokens, and the styles that a checkpoint speaks in."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from emova.checkpoint.registry import REPLY_FORMATS, build_reply_format
from emova.core.tokens import TokenIds
from emova.reply.doubt import Doubt
from emova.reply.format import ReplyFormat
from emova.speech.spelling import LETTERS, Spell, find_spelling
from emova.speech.style import DEFAULT_STYLES, StyleSet
from emova.vision.projectors import projector_from_dict
from emova.vision.protocol import ProjectorConfig
from emova.vision.towers import VisionConfig

PLAIN, INT8_ROWS = "plain", "int8 rows"
"""Of ``EmovaConfig.weight_storage``."""
VOCABULARY_MULTIPLE = 128


def padded_size(tokens: int) -> int:
    """``tokens`` rounded up to a multiple of 128: tensor cores and tensor parallelism like it."""
    return -(-tokens // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


class EmovaConfig(PreTrainedConfig):
    """Configuration of EmovaForConditionalGeneration.

    Args:
        text_config: the language model's configuration, a LLaMA's if its ``model_type`` says nothing; its vocabulary
            is the padded one.
        vision_config: the fields of ``emova.vision.towers.VisionConfig``; ``vision`` gives the dataclass.
        projector_config: ``kind`` and the fields of its config class; ``projector`` gives the dataclass.
        token_count: tokens in use; rows of the embedding above it are padding and never predicted.
        weight_storage: how the weights lie in their file: plain tensors, or the language model in int8 rows
            (``emova.model.storage``). A model in memory is always plain.
        always_run_vision: in training, run tower and projector on a blank tile when a batch has no picture, so that
            every rank touches every parameter (ZeRO-3 waits for ever otherwise).
        trained_context: positions before an answer (opening, turns, question) up to which dialogues were trained; a
            dialogue forgets its oldest turns rather than grow beyond. 0: as many as the model has positions.
        trained_pictures: how many pictures a dialogue keeps apart; of a chat's earlier turns the older ones keep their
            words alone. 0: any number.
        ctc_layer: CTC reads transcripts from the hidden states after so many layers (``emova.decoding.ctc``);
            0 where the model was not trained to.
        reply_config: ``kind``, the format that replies are written in unless another is asked for (json), and under
            its kind the options of each format that the model was taught, such as
            ``{"kind": "json", "interleaved": {"text_tokens": 6, "units": 24}}``.
        styles: voices, emotions and pitches that the model can name (``emova.speech.style.StyleSet``); EMOVA's 24
            styles where there is nothing. ``style_set`` gives the dataclass.
        doubt: when the model admits that it does not know (``emova.reply.doubt.Doubt``); never where there is nothing.
            ``doubts`` gives the dataclass.
        reading_spelling: how a text that it reads aloud is spelled to it (``emova.speech.spelling``): in letters, or in
            phones.
        unit_tokenizer: the name of the units that the model has learnt (``emova.speech.tokenizer.units``); empty where
            it is not known.

    Raises:
        InputError: a kind or a style is wrong.
    """

    RENAMED: ClassVar[dict[str, str]] = {"heard_text_layer": "ctc_layer"}
    """Keys of checkpoints that earlier versions wrote, and what they are called now. ``thoughts_ratio`` is read too: it
    held the options of the format that is now called interleaved."""

    auto_map: ClassVar[dict[str, str]] = {}
    """No code comes with a checkpoint. Trainers ask for it (TRL does), and the base class has it only where it is."""

    model_type = "emova"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")
    }

    # Given as dictionaries or objects, kept as a configuration of transformers and plain dictionaries.
    text_config: Any = None
    vision_config: Any = None
    projector_config: Any = None
    token_count: int | None = None
    image_token_id: int = 0
    image_start_token_id: int = 0
    image_end_token_id: int = 0
    image_row_token_id: int = 0
    speech_start_token_id: int = 0
    speech_end_token_id: int = 0
    speech_first_token_id: int = 0
    speech_codebook_size: int = 4096
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    always_run_vision: bool = False
    weight_storage: str = PLAIN
    trained_context: int = 0
    trained_pictures: int = 0
    ctc_layer: int = 0
    reply_config: Any = None
    styles: Any = None
    doubt: Any = None
    reading_spelling: str = LETTERS
    unit_tokenizer: str = ""
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for old, new in self.RENAMED.items():
            if old in kwargs:
                setattr(self, new, kwargs.pop(old))
        ratio = kwargs.pop("thoughts_ratio", None)
        super().__post_init__(**kwargs)
        # Through the dataclasses and back: unknown fields are refused, defaults are written down.
        self.vision_config = VisionConfig.from_dict(self.vision_config or {}).to_dict()
        self.projector_config = asdict(projector_from_dict(self.projector_config or {}))  # type: ignore[call-overload]
        taught = {"interleaved": {"text_tokens": ratio[0], "units": ratio[1]}} if ratio else {}
        self.reply_config = {"kind": "json", **taught, **(self.reply_config or {})}
        self.styles = StyleSet.from_dict(self.styles or {}).to_dict()
        self.doubt = None if self.doubt is None else Doubt.from_dict(self.doubt, self.style_set).to_dict()
        find_spelling(self.reading_spelling)
        self.token_count = self.token_count or self.text_config.vocab_size
        self.tie_word_embeddings = bool(self.tie_word_embeddings or self.text_config.tie_word_embeddings)

    @property
    def vision(self) -> VisionConfig:
        """The vision tower's kind and shape."""
        return VisionConfig.from_dict(self.vision_config)

    @property
    def projector(self) -> ProjectorConfig:
        """The projector's kind and shape."""
        return projector_from_dict(self.projector_config)

    @property
    def style_set(self) -> StyleSet:
        """The styles that replies may name."""
        return StyleSet.from_dict(self.styles)

    @property
    def doubts(self) -> Doubt | None:
        """When the model admits that it does not know."""
        return None if self.doubt is None else Doubt.from_dict(self.doubt, self.style_set)

    @property
    def spell(self) -> Spell:
        """What it is given in place of a text that it reads aloud."""
        return find_spelling(self.reading_spelling)

    def reply_format(self, kind: str | None = None) -> ReplyFormat:
        """How replies are written, with the styles and options of this model.

        Args:
            kind: one of those that the model was taught; its usual one if None.

        Raises:
            InputError: there is no such format, or an option of it is wrong.
        """
        kind = REPLY_FORMATS.name(kind or self.reply_config["kind"])
        return build_reply_format(kind, self.reply_config.get(kind, {}), self.style_set)

    @classmethod
    def from_parts(
        cls,
        text: PreTrainedConfig,
        vision: VisionConfig,
        projector: ProjectorConfig,
        token_ids: TokenIds,
        token_count: int,
        always_run_vision: bool = False,
        styles: StyleSet = DEFAULT_STYLES,
    ) -> EmovaConfig:
        """Join the parts; the text configuration's vocabulary and special ids are set from the tokenizer's.

        Args:
            token_count: ``len(tokenizer)``.
        """
        values: dict[str, Any] = text.to_dict()
        values.update(
            vocab_size=padded_size(token_count),
            pad_token_id=token_ids.pad,
            bos_token_id=token_ids.begin_of_text,
            eos_token_id=token_ids.end_of_turn,
        )
        return cls(
            text_config=type(text)(**values),
            vision_config=vision.to_dict(),
            projector_config=asdict(projector),  # type: ignore[call-overload]  # a frozen dataclass
            styles=styles.to_dict(),
            token_count=token_count,
            image_token_id=token_ids.image,
            image_start_token_id=token_ids.image_start,
            image_end_token_id=token_ids.image_end,
            image_row_token_id=token_ids.image_row,
            speech_start_token_id=token_ids.speech_start,
            speech_end_token_id=token_ids.speech_end,
            speech_first_token_id=token_ids.first_unit,
            speech_codebook_size=token_ids.codebook_size,
            pad_token_id=token_ids.pad,
            bos_token_id=token_ids.begin_of_text,
            eos_token_id=[token_ids.end_of_turn, token_ids.end_of_text],
            always_run_vision=always_run_vision,
            tie_word_embeddings=text.tie_word_embeddings,
        )
