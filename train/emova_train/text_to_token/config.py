"""What the YAML file of a text-to-token model's training says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from emova.core.errors import InputError
from emova_train.core.config import RunConfig
from emova_train.data.pack_reader import ShardConfig
from emova_train.stages.config import InitConfig, RatesConfig, StageConfig
from emova_train.stages.data import DataConfig
from emova_train.stages.losses.tokens import LossWeights
from emova_train.stages.validation import SampleConfig

TASK = "tts"


@dataclass(frozen=True)
class TextToTokenData:
    """Pairs of a text and the units that say it: of converted sets, or of a recipe's folder; one of them."""

    sets: dict[str, float] = field(default_factory=dict)
    """Passes over each set of ``shards.root`` in an epoch: speech with its transcript, tokenised (``emova data
    tokenise``)."""
    held_out: list[str] = field(default_factory=list)
    """Sets of ``shards.root`` whose first pairs are for validation."""
    shards: ShardConfig = field(default_factory=ShardConfig)
    root: str = ""
    """A recipe's folder, such as data/nano; ``said`` names its sets of units."""
    said: list[str] = field(default_factory=lambda: ["answer"])
    pack_tokens: int = 1024
    max_tokens: int = 1024


@dataclass(frozen=True)
class TextToTokenConfig:
    """One run; ``configs/text_to_token`` has examples.

    Attributes:
        run: ``learning_rate`` is the language model's.
        init: ``model`` names shapes without a tower, of which ``text.pretrained`` is a language model of text; or
            ``checkpoint``, an earlier export.
        losses_over, heard: held-out pairs over which the loss is measured, and those that are written out, with at most
            ``max_units`` of ``unit_rate`` a second.
    """

    data: TextToTokenData = field(default_factory=TextToTokenData)
    run: RunConfig = field(default_factory=lambda: RunConfig(output_dir="runs/text-to-token"))
    init: InitConfig = field(default_factory=InitConfig)
    losses_over: int = 64
    heard: int = 2
    max_units: int = 400
    unit_rate: float = 25.0
    attention: str = "auto"
    gradient_checkpointing: bool = False
    liger: str = "auto"

    def stage(self) -> StageConfig:
        """The same as a stage whose only task is to say a text: loss on the units and the end of the turn.

        Raises:
            InputError: there are no data, or they are of both kinds.
        """
        data = self.data
        if bool(data.sets) == bool(data.root):
            raise InputError("data: give sets (converted sets of speech) or root (a recipe's folder), one of them")
        records = replace(data.shards.records, speak_share=1.0, both_directions=False, one_phrasing=True)
        read = DataConfig(
            root=data.root, mixture={} if data.sets else {TASK: 1.0}, tts=data.said, sets=data.sets,
            held_out=data.held_out, shards=replace(data.shards, records=records), pack_tokens=data.pack_tokens,
            max_tokens=data.max_tokens,
        )  # fmt: skip
        return StageConfig(
            run=self.run, init=self.init, rates=RatesConfig(llm=self.run.learning_rate), data=read,
            weights=LossWeights(units=1.0), allow_random=True, attention=self.attention,
            gradient_checkpointing=self.gradient_checkpointing, liger=self.liger,
            samples=SampleConfig(
                self.heard, self.heard, self.losses_over, max_units=self.max_units, unit_rate=self.unit_rate
            ),
        )  # fmt: skip
