"""EmovaProcessor: conversations to token ids, a loss mask and tiles; one rendering for training and for answering.

Text is tokenised part by part with special tokens split, so whatever a user writes stays plain text; control tokens
and units enter by id alone.

Shape letters: B batch, T positions, N tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import emova.core.compat  # noqa: F401  (torchvision must import before transformers' image parts)

# isort: split
import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from emova.checkpoint.registry import load_tokenizer
from emova.core.errors import InputError
from emova.core.tokens import IMAGE, IMAGE_ROW, Frame, TokenIds, speech_text, token_names
from emova.model import sources
from emova.model.configuration_emova import EmovaConfig
from emova.model.image_processing_emova import EmovaImageProcessor
from emova.model.own_template import frame_template, stated_frame
from emova.model.processor_options import ProcessorOptions
from emova.reply.format import ReplyFormat
from emova.speech.tokenizer.protocol import SpeechTokenizer
from emova.vision.slicing import Grid

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8").strip()
ROLES = ("system", "user", "assistant")
SOUND = speech_text([])
"""Where a sound of its own goes in a prompt's text."""
PLAIN = ProcessorOptions()

Message = Mapping[str, Any]
"""As users write it: "role" and "content"; a part holds a text, or a picture or sound in one of many forms."""


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
        image_processor: EmovaImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
        reply_format: ReplyFormat | None = None,
    ) -> None:
        assert tokenizer is not None, "transformers hands it in"
        stated = stated_frame(tokenizer)
        own = CHAT_TEMPLATE if stated is None else frame_template(stated, tokenizer)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or own)
        self.image_token = IMAGE
        self.image_token_id = tokenizer.convert_tokens_to_ids(token_names(tokenizer)[IMAGE])
        self.token_ids = TokenIds.from_tokenizer(tokenizer)
        self.frame = Frame.from_tokenizer(tokenizer)
        self.reply_format: ReplyFormat | None = reply_format
        self._speech_tokenizer: SpeechTokenizer | None = None
        self._speech_folder: Path | None = None

    @classmethod
    def from_pretrained(  # type: ignore[override]  # what is not ours is passed through
        cls, name: str | PathLike[str], *arguments: Any, **options: Any
    ) -> EmovaProcessor:
        """Load a processor as transformers does, with the reply format of the model beside it.

        A speech tokenizer in the same folder is loaded when the first sound is heard.
        """
        processor: EmovaProcessor = super().from_pretrained(name, *arguments, **options)
        folder = Path(name) / "speech_tokenizer"
        processor._speech_folder = folder if folder.is_dir() else None
        try:
            config = EmovaConfig.from_pretrained(name, local_files_only=bool(options.get("local_files_only")))
        except OSError:
            return processor  # a processor without a model
        processor.reply_format = config.reply_format()
        return processor

    def attach_speech_tokenizer(self, speech_tokenizer: SpeechTokenizer) -> None:
        """Let audio parts hold waveforms or files; without one they hold units. It is saved by its owner, not here."""
        self._speech_tokenizer = speech_tokenizer

    def to_dict(self) -> dict[str, object]:
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
        return [*self.frame.heard, *self.token_ids.from_units(units), *self.frame.heard_end]

    def image_ids(self, grid: Grid) -> list[int]:
        """The placeholders of a picture, its separators, start and end."""
        ids = self.token_ids
        table = {IMAGE: ids.image, IMAGE_ROW: ids.image_row}
        layout = self.image_processor.layout(grid, IMAGE, IMAGE_ROW)
        return [*self.frame.shown, *(table[token] for token in layout), *self.frame.shown_end]

    def _heard(self, source: object, options: ProcessorOptions) -> list[int]:
        """The units of a sound in any form that ``emova.model.sources`` knows."""
        if self._speech_tokenizer is None and self._speech_folder is not None:
            self._speech_tokenizer = load_tokenizer(self._speech_folder, "cpu")
        if self._speech_tokenizer is None:
            raise InputError("audio part: no speech tokenizer is attached; give 'units' or attach one")
        samples = torch.as_tensor(sources.sound(source, self._speech_tokenizer.sample_rate, options.sampling_rate))
        with torch.no_grad():
            return self._speech_tokenizer.encode(samples.reshape(1, -1))[0].tolist()

    def _units(self, part: Message, options: ProcessorOptions) -> Sequence[int]:
        if "units" in part:
            return part["units"]
        source = sources.find(part, "audio")
        if source is None:
            raise InputError("audio part: it has neither 'units' nor 'audio'; give one of them")
        return self._heard(source, options)

    def _tiles(self, source: object, options: ProcessorOptions) -> tuple[Grid, Tensor]:
        return self.image_processor.tiles(sources.picture(source), options.max_tiles)

    # Conversations -------------------------------------------------------------------------------------------------

    @staticmethod
    def _parts(message: Message) -> list[Message]:
        """The content's parts, neighbouring text joined so that it is tokenised as one."""
        content = message.get("content")
        if content is None or isinstance(content, str):
            return [{"type": "text", "text": content or ""}]
        if not isinstance(content, list | tuple):
            raise InputError(f"message: its content is a {type(content).__name__}; give a string or a list of parts")
        parts: list[Message] = []
        for part in content:
            if not isinstance(part, Mapping):
                raise InputError(f"message: a part is a {type(part).__name__}; give dictionaries with a 'type'")
            part = _standard(part)
            if part.get("type") == "text" and not isinstance(part.get("text"), str):
                raise InputError("text part: it has no 'text'; give a string")
            if part.get("type") == "text" and parts and parts[-1].get("type") == "text":
                parts[-1] = {"type": "text", "text": parts[-1]["text"] + part["text"]}
            else:
                parts.append(part)
        return parts

    def _render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool,
        continue_final: bool,
        options: ProcessorOptions = PLAIN,
    ) -> Rendered:
        ids = list(self.frame.opening(messages[0].get("role") if messages else None))
        mask = [False] * len(ids)
        grids: list[Grid] = []
        tiles: list[Tensor] = []
        for message in messages:
            role = message.get("role")
            if role not in ROLES:
                raise InputError(f"message: role {role!r} is unknown; it is one of {', '.join(ROLES)}")
            ids += self.frame.before(role)
            mask += [False] * len(self.frame.before(role))
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
                    content += self.encode_units(self._units(part, options))
                elif kind == "tokens":
                    content += part["ids"]
                elif kind == "image":
                    source = sources.find(part, "image")
                    if source is None:
                        raise InputError("image part: it has no 'image'; give a picture, a path, an address or bytes")
                    grid, pixels = self._tiles(source, options)
                    grids.append(grid)
                    tiles.append(pixels)
                    content += self.image_ids(grid)
                else:
                    raise InputError(f"message: content type {kind!r} is unknown; it is text, image or audio")
            end = self.frame.after(role)
            if role == "assistant":
                content.append(self.token_ids.end_of_turn)
            ids += content
            mask += [role == "assistant"] * len(content)
            ids += end
            mask += [False] * len(end)
        if continue_final and messages:
            last = messages[-1].get("role")
            cut = len(ids) - len(self.frame.after(str(last))) - (last == "assistant")
            ids, mask = ids[:cut], mask[:cut]
        if add_generation_prompt:
            ids += self.frame.assistant
            mask += [False] * len(self.frame.assistant)
        return Rendered(tuple(ids), tuple(mask), torch.cat(tiles) if tiles else None, tuple(grids))

    def render_training(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation with its loss mask and tiles."""
        return self._render(messages, add_generation_prompt=False, continue_final=False)

    def render_prompt(self, messages: Sequence[Message]) -> Rendered:
        """A conversation up to where the assistant answers."""
        return self._render(messages, add_generation_prompt=True, continue_final=False)

    def _for_template(self, messages: Sequence[Message], options: ProcessorOptions) -> list[Message]:
        """What the template can write down: sounds as units, pictures as their places."""
        rendered: list[Message] = []
        for message in messages:
            parts: list[Message] = [
                {"type": "audio", "units": self._units(part, options)} if part.get("type") == "audio" else part
                for part in self._parts(message)
            ]
            whole = parts[0]["text"] if len(parts) == 1 and parts[0].get("type") == "text" else parts
            rendered.append({**message, "content": whole})
        return rendered

    def apply_chat_template(  # type: ignore[override]  # this one's messages
        self,
        conversation: Sequence[Message] | Sequence[Sequence[Message]],
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, object]] | None = None,
        documents: Sequence[Mapping[str, str]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "pt",
        return_dict: bool = False,
        sanitize_control_tokens: bool = True,
        **options: object,
    ) -> Any:
        """Render one conversation, or a batch of them (padded on the left unless ``padding_side`` says otherwise).

        Args:
            conversation: messages ``{"role", "content"}``; content is a string or parts of type text, image, audio or
                tokens ("ids" that a reply format encoded: trusted as they are). Pictures stand under "image", "url",
                "path" or "base64", as ``emova.model.sources.picture`` takes them; sounds likewise under "audio", or as
                "units". OpenAI's "image_url" and "input_audio" are read too.
            chat_template: another template, for ``tokenize=False`` only.
            tools, documents: the template has no place for them.
            tokenize: ids instead of the rendered string. Only ids are safe against forged control tokens.
            return_dict: a BatchFeature with input_ids, attention_mask and, with pictures, pixel_values, image_grids.
            sanitize_control_tokens: True; ids never hold control tokens that a text forged.
            options: of ``ProcessorOptions``, plain or in ``processor_kwargs``, ``text_kwargs`` and their like.

        Raises:
            InputError: a message, part or option is malformed or unknown.
        """
        chosen = replace(ProcessorOptions.gather(options), return_tensors=ProcessorOptions.tensors(return_tensors))
        if tools or documents:
            raise InputError(f"{'tools' if tools else 'documents'}: this model's template has no place for them")
        if add_generation_prompt and continue_final_message:
            raise InputError("continue_final_message: goes on with an answer, add_generation_prompt begins one; choose")
        batched = bool(conversation) and not isinstance(conversation[0], Mapping)
        conversations: list[Sequence[Message]] = list(conversation) if batched else [conversation]  # type: ignore[arg-type, list-item]
        template = chat_template or self.chat_template
        if not tokenize:
            texts = [
                self.tokenizer.apply_chat_template(
                    self._for_template(each, chosen),
                    chat_template=template,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=continue_final_message,
                    tokenize=False,
                )
                for each in conversations
            ]
            return texts if batched else texts[0]
        if template != self.chat_template:
            raise InputError("chat_template: applies to tokenize=False; ids follow this processor's own rendering")
        if not sanitize_control_tokens:
            raise InputError("sanitize_control_tokens: ids are always safe; render text and call the processor with it")
        rendered = [self._render(each, add_generation_prompt, continue_final_message, chosen) for each in conversations]
        batch = self.collate(rendered, chosen, masks=return_assistant_tokens_mask)
        if not batched and chosen.return_tensors is None:
            batch = {name: rows[0] if isinstance(rows, list) else rows for name, rows in batch.items()}
        return BatchFeature(batch) if return_dict else batch["input_ids"]

    def collate(
        self, rendered: Sequence[Rendered], options: ProcessorOptions = PLAIN, masks: bool = False
    ) -> dict[str, Any]:
        """A batch: input_ids and attention_mask [B, T], pixel_values [N, 3, H, W], image_grids.

        Args:
            masks: assistant_masks [B, T] too, 1 where the model learns to write.

        Raises:
            InputError: a picture would be cut, or rows that differ in length make no tensor.
        """
        cut = [self._cut(each, options) for each in rendered]
        width = options.width([len(each.input_ids) for each in cut])
        batch: dict[str, Any] = {
            "input_ids": [options.padded(each.input_ids, width, self.token_ids.pad) for each in cut],
            "attention_mask": [options.padded([1] * len(each.input_ids), width, 0) for each in cut],
        }
        if masks:
            written = [[int(learn) for learn in each.loss_mask] for each in cut]
            batch["assistant_masks"] = [options.padded(each, width, 0) for each in written]
        if not options.return_attention_mask:
            del batch["attention_mask"]
        if options.return_tensors is not None:
            batch = {name: torch.tensor(rows) for name, rows in batch.items()}
        tiles = [each.pixel_values for each in cut if each.pixel_values is not None]
        if tiles:
            batch["pixel_values"] = torch.cat(tiles)
            batch["image_grids"] = torch.tensor(
                [[grid.rows, grid.columns] for each in cut for grid in each.image_grids]
            )
        if options.return_tensors == "np":
            batch = {name: rows.numpy() for name, rows in batch.items()}
        return batch

    def _cut(self, rendered: Rendered, options: ProcessorOptions) -> Rendered:
        if not options.cuts or len(rendered.input_ids) <= (options.max_length or 0):
            return rendered
        lost = rendered.input_ids[options.max_length :]
        if self.token_ids.image in lost or self.token_ids.image_end in lost:  # not every template has an end
            raise InputError(f"max_length: {options.max_length} tokens would cut a picture; allow more")
        kept = slice(None, options.max_length)
        return replace(rendered, input_ids=rendered.input_ids[kept], loss_mask=rendered.loss_mask[kept])

    def __call__(  # type: ignore[override]  # this one's options
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: object = None,
        audio: object = None,
        **options: object,
    ) -> BatchFeature:
        """Tokenise *trusted* prompts, rendered by ``apply_chat_template(tokenize=False)``, beside their pictures.

        Each image token in a prompt stands for one picture, each ``SOUND`` for one sound. Text of users belongs in
        ``apply_chat_template``.

        Args:
            images: one, a list in the prompts' order, or a list for each prompt, as ``emova.model.sources.picture``
                takes them.
            text: one prompt or several.
            audio: one or a list, as ``emova.model.sources.sound`` takes them.
            options: of ``ProcessorOptions``, plain or in ``text_kwargs`` and their like.

        Raises:
            InputError: prompts and pictures or sounds do not match; an option is unknown; there are videos.
        """
        chosen = ProcessorOptions.gather(options)
        if videos is not None:
            raise InputError("videos: this model sees pictures; give single frames as images")
        if text is None:
            if images is None or audio is not None:
                raise InputError("processor: give text, or images alone; sounds belong into apply_chat_template")
            return self.image_processor(images, return_tensors=chosen.return_tensors, max_tiles=chosen.max_tiles)
        prompts = [text] if isinstance(text, str) else list(text)
        nested = isinstance(images, list | tuple) and any(isinstance(each, list | tuple) for each in images)
        if nested and [len(sources.flat(each)) for each in images] != [prompt.count(IMAGE) for prompt in prompts]:
            raise InputError(f"images: their lists do not fit the prompts; each {IMAGE} stands for one picture")
        pictures = [] if images is None else sources.flat(images)
        sounds = [] if audio is None else list(audio) if isinstance(audio, list | tuple) else [audio]
        for name, place, given in (("pictures", IMAGE, pictures), ("sounds", SOUND, sounds)):
            places = sum(prompt.count(place) for prompt in prompts)
            if places != len(given):
                raise InputError(f"the prompts hold {places} {name}, {len(given)} are given; write {place} for each")
        left, heard = iter(pictures), iter(sounds)
        rendered = []
        for prompt in prompts:
            pieces = prompt.split(SOUND)
            for index in range(1, len(pieces)):
                pieces[index] = speech_text(self._heard(next(heard), chosen)) + pieces[index]
            start, *rest = "".join(pieces).split(IMAGE)
            ids = self.tokenizer.encode(start, add_special_tokens=False)
            own = []
            for piece in rest:
                own.append(self._tiles(next(left), chosen))
                ids += self.image_ids(own[-1][0]) + self.tokenizer.encode(piece, add_special_tokens=False)
            pixels = torch.cat([pixels for _, pixels in own]) if own else None
            rendered.append(Rendered(tuple(ids), (False,) * len(ids), pixels, tuple(grid for grid, _ in own)))
        batch = self.collate(rendered, chosen)
        if isinstance(text, str) and chosen.return_tensors is None:
            batch = {name: rows[0] if isinstance(rows, list) else rows for name, rows in batch.items()}
        return BatchFeature(batch)


def _standard(part: Message) -> Message:
    """OpenAI's parts as transformers' own."""
    name = {"image_url": "image", "input_audio": "audio"}.get(str(part.get("type")))
    if name is None:
        return part
    held = part.get(part["type"])
    if name == "audio":
        return {"type": name, "base64": held.get("data") if isinstance(held, Mapping) else None}
    return {"type": name, "url": held.get("url") if isinstance(held, Mapping) else held}
