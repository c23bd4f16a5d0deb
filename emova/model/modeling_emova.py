"""EmovaForConditionalGeneration: vision tower, C-Abstractor and LLaMA in transformers' conventions (EMOVA §3.1).

Speech enters and leaves as units, which are tokens of the vocabulary, so only pictures need a tower here.

Shape letters: B batch, T positions, D width of the LLM, N tiles of the whole batch, V visual tokens of the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import emova.core.compat  # noqa: F401  (torchvision must import before timm and transformers' image parts)

# isort: split
import torch
from timm.layers import LayerScale, RmsNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, initialization
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from emova.core.tokens import TokenIds
from emova.model.configuration_emova import EmovaConfig
from emova.model.fusion import packed_mask, packed_positions, scatter_images
from emova.model.storage import read_int8
from emova.speech.style import DEFAULT_STYLES, StyleSet
from emova.vision.none import KIND as NO_EYES
from emova.vision.projectors import build_projector
from emova.vision.protocol import NativeTower, ProjectorConfig
from emova.vision.slicing import Grid, arrange
from emova.vision.towers import VisionConfig, build_tower


@dataclass
class EmovaModelOutput(BaseModelOutputWithPast):
    """The decoder's output; ``image_hidden_states`` [V, D] are the projected pictures."""

    image_hidden_states: Tensor | None = None


@dataclass
class EmovaCausalLMOutput(CausalLMOutputWithPast):
    """The language model's output; ``image_hidden_states`` [V, D] are the projected pictures."""

    image_hidden_states: Tensor | None = None


class EmovaPreTrainedModel(PreTrainedModel):
    """What both classes share: the configuration, the capabilities, the initialisation."""

    config: EmovaConfig
    config_class = EmovaConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "Block", "ResidualAttentionBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, VisionTransformer):
            assert module.pos_embed is not None
            initialization.trunc_normal_(module.pos_embed, std=0.02)
            if module.cls_token is not None:
                initialization.normal_(module.cls_token, std=1e-6)
        elif isinstance(module, LayerScale):
            initialization.constant_(module.gamma, self.config.vision.internvit.layer_scale)
        elif isinstance(module, RmsNorm):
            initialization.ones_(module.weight)
        elif hasattr(module, "class_embedding") and hasattr(module, "positional_embedding"):  # open_clip's ViT
            for numbers in (module.class_embedding, module.positional_embedding):
                assert isinstance(numbers, Tensor)
                initialization.normal_(numbers, std=0.02)

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        super().gradient_checkpointing_enable(*args, **kwargs)
        self._checkpoint_vision(True)

    def gradient_checkpointing_disable(self) -> None:
        super().gradient_checkpointing_disable()
        self._checkpoint_vision(False)

    def _checkpoint_vision(self, enable: bool) -> None:
        tower = getattr(getattr(self, "model", self), "vision_tower", None)
        if tower is not None:
            tower.set_grad_checkpointing(enable)


class EmovaModel(EmovaPreTrainedModel):
    """Tower, projector and decoder without the vocabulary head."""

    def __init__(self, config: EmovaConfig) -> None:
        super().__init__(config)
        self.vision_tower = build_tower(config.vision)
        self.projector = build_projector(config.projector)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_image_features(self, pixel_values: Tensor, image_grids: Tensor | None = None) -> Tensor:
        """Pictures as visual tokens, in the order of their placeholders.

        Args:
            pixel_values: [N, 3, H, W], normalised tiles, each picture's thumbnail first; of a tower that takes pictures
                of any shape, their patches.
            image_grids: [pictures, 2], rows and columns; without it every tile is a picture of its own.

        Returns:
            [V, D]
        """
        tower_dtype = next(self.vision_tower.parameters()).dtype
        if isinstance(self.vision_tower, NativeTower):
            assert image_grids is not None, "pictures of any shape need their grids"
            return self.projector(self.vision_tower(pixel_values.to(tower_dtype), image_grids))
        tokens_NSD = self.projector(self.vision_tower(pixel_values.to(tower_dtype)))
        if image_grids is None:
            return tokens_NSD.flatten(0, 1)
        return arrange(tokens_NSD, [Grid(int(rows), int(columns)) for rows, columns in image_grids.tolist()])

    def _blank_features(self, like: Tensor) -> Tensor:
        """Zero, but with the tower and the projector in its graph."""
        if isinstance(self.vision_tower, NativeTower):
            patches, grid = self.vision_tower.blank()
            return self.get_image_features(patches.to(like), grid.to(like.device)).sum().to(like.dtype) * 0
        size = self.config.vision.image_size
        blank = torch.zeros(1, 3, size, size, device=like.device, dtype=like.dtype)
        return self.get_image_features(blank).sum().to(like.dtype) * 0

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> EmovaModelOutput:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        image_mask = None
        if inputs_embeds is None:
            assert input_ids is not None
            image_mask = input_ids == self.config.image_token_id
            inputs_embeds = self.get_input_embeddings()(input_ids)

        features = None
        if pixel_values is not None and pixel_values.shape[0]:
            if image_mask is None:
                raise ValueError("pixel_values need input_ids: the placeholders say where the pictures go")
            features = self.get_image_features(pixel_values, image_grids)
            inputs_embeds = scatter_images(inputs_embeds, image_mask, features)
        else:
            # One position is a decoding step: its token was chosen by the model, and looking costs a wait on a GPU.
            if image_mask is not None and image_mask.shape[1] > 1 and bool(image_mask.any()):
                raise ValueError(f"input_ids holds {int(image_mask.sum())} image placeholders, but no pixel_values")
            if self.config.always_run_vision and self.training and self.config.vision.kind != NO_EYES:
                inputs_embeds = inputs_embeds + self._blank_features(inputs_embeds)

        if sequence_ids is not None:
            if attention_mask is not None or past_key_values is not None:
                raise ValueError("sequence_ids replace attention_mask and do not go with a cache")
            attention_mask = packed_mask(sequence_ids, self.config._attn_implementation, inputs_embeds.dtype)
            position_ids = packed_positions(sequence_ids) if position_ids is None else position_ids

        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return EmovaModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=features,
        )


class EmovaForConditionalGeneration(EmovaPreTrainedModel, GenerationMixin):
    """The assistant's model: text, units and pictures in; text and units out."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}

    def __init__(self, config: EmovaConfig) -> None:
        super().__init__(config)
        self.model = EmovaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def get_image_features(self, pixel_values: Tensor, image_grids: Tensor | None = None) -> Tensor:
        """See EmovaModel.get_image_features."""
        return self.model.get_image_features(pixel_values, image_grids)

    def scores(self, hidden: Tensor) -> Tensor:
        """What the head gives for hidden states [..., D]: [..., V], scaled and capped as the language model's family
        has it (Granite, Cohere, Gemma)."""
        config, logits = self.config.text_config, self.lm_head(hidden)
        logits = logits * getattr(config, "logit_scale", 1.0) / getattr(config, "logits_scaling", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        sequence_ids: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> EmovaCausalLMOutput | tuple[Any, ...]:
        """Predict the next token at every position.

        Args:
            input_ids: [B, T], with the image placeholder once a visual token.
            pixel_values: [N, 3, H, W], the tiles of all pictures; in generation needed for the prompt only.
            image_grids: [pictures, 2], rows and columns of each picture's tiles.
            attention_mask: [B, T] with zeros at padding, or a ready [B, 1, T, S] mask, True or 0 where allowed.
            sequence_ids: [B, T], for packed training: positions see only their own sequence. Replaces attention_mask;
                position_ids follow from it.
            labels: [B, T], the tokens themselves, -100 where nothing is learnt; shifted inside.
            logits_to_keep: how many last positions to compute logits for, or which; 0 is all.

        Raises:
            ValueError: placeholders and pictures do not match.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            image_grids=image_grids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            sequence_ids=sequence_ids,
            use_cache=use_cache,
            **{key: value for key, value in kwargs.items() if key != "num_items_in_batch"},
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.scores(outputs.last_hidden_state[:, kept])
        # Padding rows of the vocabulary are no tokens.
        logits[..., self.config.token_count :] = torch.finfo(logits.dtype).min
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=self.config.text_config.vocab_size,
                num_items_in_batch=kwargs.get("num_items_in_batch"),
            )
        result = EmovaCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=outputs.image_hidden_states,
        )
        return result if return_dict is not False else result.to_tuple()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers', of int8 rows too, which become float32 unless ``dtype`` says otherwise."""
        plain = super().from_pretrained
        if (
            kwargs.get("state_dict") is None
            and (stored := read_int8(pretrained_model_name_or_path, kwargs)) is not None
        ):
            config, state, generation = stored
            loaded = plain(None, *args, **{"dtype": torch.float32, **kwargs, "config": config, "state_dict": state})
            (loaded[0] if isinstance(loaded, tuple) else loaded).generation_config = generation
            return loaded
        return plain(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_parts(
        cls,
        llama: PreTrainedModel,
        vision: VisionConfig,
        projector: ProjectorConfig,
        token_ids: TokenIds,
        token_count: int,
        always_run_vision: bool = False,
        styles: StyleSet = DEFAULT_STYLES,
        known: int | None = None,
    ) -> EmovaForConditionalGeneration:
        """Grow a plain LLaMA, or another causal language model: its vocabulary gets the new tokens, each new row the
        mean of the old ones.

        Args:
            llama: the language model with its head; its weights are copied.
            vision, projector: shapes of the vision parts, which start random (load their weights afterwards).
            token_ids, token_count: of the extended tokenizer, whose first tokens are the LLaMA's own.
            styles: the words that replies may name.
            known: how many tokens the LLaMA's own tokenizer has, whose embedding may have more rows; all of these
                if None.

        Raises:
            ValueError: its embedding has another name than in a LLaMA, or the tokenizer is none that was extended.
        """
        config = EmovaConfig.from_parts(
            llama.config, vision, projector, token_ids, token_count, always_run_vision, styles
        )
        prefix = f"{llama.base_model_prefix}."
        state = llama.state_dict()
        tables = (f"{prefix}embed_tokens.weight", "lm_head.weight")
        if any(name not in state for name in tables):
            raise ValueError(f"a {llama.config.model_type} keeps its words otherwise: give one of LLaMA's form")
        rows = len(state[tables[0]])
        known = rows if known is None else min(rows, known)
        if config.text_config.vocab_size < known:
            raise ValueError("the tokenizer has fewer tokens than the LLaMA: extend the LLaMA's own tokenizer")
        model = cls(config).to(llama.dtype)  # type: ignore[arg-type]  # transformers' wrapper hides the method
        for name in tables:
            state[name] = grow_rows(state[name], config.text_config.vocab_size, known)
        model.model.language_model.load_state_dict(
            {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        )
        with torch.no_grad():
            model.lm_head.weight.copy_(state["lm_head.weight"])
        return model


def grow_rows(weight: Tensor, rows: int, known: int) -> Tensor:
    """The first ``known`` rows of ``weight`` [old, D], then their mean: [rows, D]. Rows of no word are left out."""
    assert known <= min(weight.shape[0], rows)
    words = weight[:known]
    mean = words.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([words, mean.expand(rows - known, -1)])
