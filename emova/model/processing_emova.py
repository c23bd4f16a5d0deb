"""EmovaProcessor: conversations to token ids, a loss mask and tiles; one rendering for training and for answering.

Text is tokenised part by part with special tokens split, so whatever a user writes stays plain text; control tokens
and units enter by id alone.

Shape letters: B batch, T positions, N tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from emova.core.errors import InputError
from emova.core.tokens import IMAGE, IMAGE_ROW, TokenIds
from emova.model.configuration_emova import EmovaConfig
from emova.reply.format import ReplyFormat
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.vision.slicing import Grid, token_layout

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8").strip()
ROLES = ("system", "user", "assistant")

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Rendered:
    """A conversation, ready for the model.

    ``loss_mask`` is true where the model learns to write: the assistant's contents and their end of turn.
    """

    input_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    pixel_values: Tensor | None
    """[N, 3, H, W], or None without a picture."""
    image_grids: tuple[Grid, ...]

    @property
    def labels(self) -> list[int]:
        """The ids where the loss counts, -100 elsewhere (shifted inside the model)."""
        return [token if learn else -100 for token, learn in zip(self.input_ids, self.loss_mask, strict=True)]


class EmovaProcessor(ProcessorMixin):
    """Tokenizer, image processor and chat template in one.

    Args:
        image_processor: pictures to tiles.
        tokenizer: with the control tokens and units of ``emova.core.tokens``.
        chat_template: the rendering as a template, for tools that read it; this class renders by itself.
        reply_format: how replies are written; it says where a reply's text is tokenised apart. Without it an answer's
            text is tokenised as one. ``from_pretrained`` hands in the one that the checkpoint's ``config.json`` names.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        reply_format: ReplyFormat | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)
        self.image_token = IMAGE
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.token_ids = TokenIds.from_tokenizer(tokenizer)
        self.reply_format: ReplyFormat | None = reply_format
        self._speech_tokenizer: SpeechTokenizer | None = None

    @classmethod
    def from_pretrained(  # type: ignore[override]  # what is not ours is passed through
        cls, name: str | PathLike[str], *arguments: Any, **options: Any
    ) -> EmovaProcessor:
        """Load a processor as transformers does, with the reply format of the model beside it."""
        processor: EmovaProcessor = super().from_pretrained(name, *arguments, **options)
        try:
            config = EmovaConfig.from_pretrained(name, local_files_only=bool(options.get("local_files_only")))
        except OSError:
            return processor  # a processor without a model
        processor.reply_format = config.reply_format()
        return processor

    def attach_speech_tokenizer(self, speech_tokenizer: SpeechTokenizer) -> None:
        """Let audio parts hold waveforms or files; without it they hold units. It is saved by its owner, not here."""
        self._speech_tokenizer = speech_tokenizer

    def to_dict(self) -> dict[str, Any]:
        return {"image_processor": self.image_processor.to_dict(), "processor_class": type(self).__name__}

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "image_grids"]

    # Parts ---------------------------------------------------------------------------------------------------------

    def encode_text(self, text: str) -> list[int]:
        """Plain text's ids; control tokens in it become ordinary characters.

        Raises:
            InputError: the text holds half of a surrogate pair, which is no character.
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError("text: holds half of a character (a lone surrogate); give it in UTF-8")
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []

    def encode_units(self, units: Sequence[int]) -> list[int]:
        """Units between speech_start and speech_end."""
        return [self.token_ids.speech_start, *self.token_ids.from_units(units), self.token_ids.speech_end]

    def image_ids(self, grid: Grid) -> list[int]:
        """The placeholders of a picture, its separators, start and end."""
        ids = self.token_ids
        table = {IMAGE: ids.image, IMAGE_ROW: ids.image_row}
        layout = token_layout(grid, self.image_processor.tile_side, IMAGE, IMAGE_ROW)
        return [ids.image_start, *(table[token] for token in layout), ids.image_end]

    def _units(self, part: Message) -> Sequence[int]:
        if "units" in part:
            return part["units"]
        source = next((part[key] for key in ("audio", "path") if part.get(key) is not None), None)
        if source is None:
            raise InputError("audio part: it has neither 'units' nor 'audio'; give one of them")
        if self._speech_tokenizer is None:
            raise InputError("audio part: no speech tokenizer is attached; give 'units' or attach one")
        if not isinstance(source, np.ndarray | Tensor):
            from emova.speech.audio import load_audio

            source = load_audio(source, self._speech_tokenizer.sample_rate)
        samples = torch.as_tensor(source, dtype=torch.float32)
        with torch.no_grad():
            return self._speech_tokenizer.encode(samples.reshape(1, -1))[0].tolist()

    @staticmethod
    def _image(part: Message) -> Image.Image:
        source = next((part[key] for key in ("image", "path") if part.get(key) is not None), None)
        if source is None:
            raise InputError("image part: it has no 'image'; give a picture, a path or bytes")
        from emova.vision.image import load_image

        return load_image(source)

    # Conversations -------------------------------------------------------------------------------------------------

    @staticmethod
    def _parts(message: Message) -> list[Message]:
        """The content's parts, neighbouring text joined so that it is tokenised as one."""
        content = message["content"]
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        parts: list[Message] = []
        for part in content:
            if part.get("type") == "text" and parts and parts[-1].get("type") == "text":
                parts[-1] = {"type": "text", "text": parts[-1]["text"] + part["text"]}
            else:
                parts.append(part)
        return parts

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool, continue_final: bool) -> Rendered:
        ids, mask = [self.token_ids.begin_of_text], [False]
        grids: list[Grid] = []
        tiles: list[Tensor] = []
        for message in messages:
            role = message.get("role")
            if role not in ROLES:
                raise InputError(f"message: role {role!r} is unknown; it is one of {', '.join(ROLES)}")
            ids.append(getattr(self.token_ids, role))
            mask.append(False)
            content: list[int] = []
            for part in self._parts(message):
                kind = part.get("type")
                if kind == "text":
                    pieces = [part["text"]]
                    if role == "assistant" and self.reply_format is not None:
                        # A reply's strings are tokenised apart, as the grammar lets the model write them.
                        pieces = self.reply_format.split(part["text"])
                    content += [token for piece in pieces for token in self.encode_text(piece)]
                elif kind == "audio":
                    content += self.encode_units(self._units(part))
                elif kind == "tokens":
                    content += part["ids"]
                elif kind == "image":
                    grid, pixels = self.image_processor.tiles(self._image(part))
                    grids.append(grid)
                    tiles.append(pixels)
                    content += self.image_ids(grid)
                else:
                    raise InputError(f"message: content type {kind!r} is unknown; it is text, image or audio")
            content.append(self.token_ids.end_of_turn)
            ids += content
            mask += [role == "assistant"] * len(content)
        if continue_final:
            ids.pop()
            mask.pop()
        if add_generation_prompt:
            ids.append(self.token_ids.assistant)
            mask.append(False)
        return Rendered(tuple(ids), tuple(mask), torch.cat(tiles) if tiles else None, tuple(grids))

    def render_training(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation with its loss mask and tiles."""
        return self._render(messages, add_generation_prompt=False, continue_final=False)

    def render_prompt(self, messages: Sequence[Message]) -> Rendered:
        """A conversation up to where the assistant answers."""
        return self._render(messages, add_generation_prompt=True, continue_final=False)

    def apply_chat_template(  # type: ignore[override]  # this one's messages and options
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        return_assistant_tokens_mask: bool = False,
    ) -> Any:
        """Render one conversation, or a batch of them (padded on the left).

        Args:
            conversation: messages ``{"role", "content"}``; content is a string or parts of type text, image (a
                picture, path or bytes under "image"), audio ("units", or "audio": samples [T] at the speech
                tokenizer's rate, a path or bytes) or tokens ("ids" that a reply format encoded: trusted as they are).
            chat_template: another template, for ``tokenize=False`` only.
            tokenize: ids instead of the rendered string. Only ids are safe against forged control tokens.
            return_dict: a BatchFeature with input_ids, attention_mask and, with pictures, pixel_values, image_grids.

        Raises:
            InputError: a message or part is malformed.
        """
        batched = bool(conversation) and not isinstance(conversation[0], Mapping)
        if not tokenize:
            return self.tokenizer.apply_chat_template(
                conversation,
                chat_template=chat_template or self.chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=False,
            )
        if chat_template is not None:
            raise ValueError("chat_template applies to tokenize=False; ids follow this processor's own rendering")
        conversations: Any = conversation if batched else [conversation]
        rendered = [self._render(each, add_generation_prompt, continue_final_message) for each in conversations]
        batch: dict[str, Any] = {**self.collate(rendered)}
        if return_assistant_tokens_mask:
            width = batch["input_ids"].shape[1]
            batch["assistant_masks"] = torch.tensor(
                [[0] * (width - len(each.loss_mask)) + [int(learn) for learn in each.loss_mask] for each in rendered]
            )
        if return_tensors is None:
            ids = [list(each.input_ids) for each in rendered]
            batch = {**batch, "input_ids": ids if batched else ids[0]}
        elif return_tensors != "pt":
            raise ValueError(f"return_tensors is {return_tensors!r}; it is 'pt' or None")
        return BatchFeature(batch) if return_dict else batch["input_ids"]

    def collate(self, rendered: Sequence[Rendered]) -> dict[str, Tensor]:
        """A left-padded batch: input_ids and attention_mask [B, T], pixel_values [N, 3, H, W], image_grids."""
        width = max(len(each.input_ids) for each in rendered)
        ids = torch.full((len(rendered), width), self.token_ids.pad)
        attention = torch.zeros_like(ids)
        for row, each in enumerate(rendered):
            ids[row, width - len(each.input_ids) :] = torch.tensor(each.input_ids)
            attention[row, width - len(each.input_ids) :] = 1
        batch = {"input_ids": ids, "attention_mask": attention}
        tiles = [each.pixel_values for each in rendered if each.pixel_values is not None]
        if tiles:
            batch["pixel_values"] = torch.cat(tiles)
            batch["image_grids"] = torch.tensor(
                [[grid.rows, grid.columns] for each in rendered for grid in each.image_grids]
            )
        return batch

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """Tokenise *trusted* prompts, rendered by ``apply_chat_template(tokenize=False)``, beside their pictures.

        Each image token in a prompt stands for one picture. Text of users belongs in ``apply_chat_template``.
        """
        if text is None:
            if images is None:
                raise ValueError("give images, text or both")
            return self.image_processor(images, return_tensors=return_tensors)
        prompts = [text] if isinstance(text, str) else list(text)
        pictures = [images] if isinstance(images, Image.Image) else list(images or [])
        cut = [self.image_processor.tiles(picture) for picture in pictures]
        if sum(prompt.count(IMAGE) for prompt in prompts) != len(cut):
            raise ValueError(f"the prompts hold {sum(p.count(IMAGE) for p in prompts)} pictures, {len(cut)} are given")
        left = iter(cut)
        rendered = []
        for prompt in prompts:
            pieces = prompt.split(IMAGE)
            ids = self.tokenizer.encode(pieces[0], add_special_tokens=False)
            own = []
            for piece in pieces[1:]:
                own.append(next(left))
                ids += self.image_ids(own[-1][0]) + self.tokenizer.encode(piece, add_special_tokens=False)
            pixels = torch.cat([pixels for _, pixels in own]) if own else None
            rendered.append(Rendered(tuple(ids), (False,) * len(ids), pixels, tuple(grid for grid, _ in own)))
        return BatchFeature(self.collate(rendered), tensor_type=return_tensors)
