"""Whole conversations laid end to end in one row, with a loss on chosen positions and attention inside each alone.

Nothing is padded: the row is as long as its conversations, and the vocabulary head runs only where a loss is wanted.

Shape letters: N positions of the row, S sequences, K positions with a loss, H heads, G key-value heads, C head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import emova.core.compat  # noqa: F401
from emova.core.tokens import TokenIds
from emova_train.stages.losses.ctc import HeardTextConfig, heard_positions, heard_spans, heard_text_loss
from emova_train.stages.losses.grounding import (
    LOOK,
    PLACE,
    WORD,
    SeenWords,
    SeenWordsConfig,
    looking_loss,
    projections,
    seen_words_loss,
)

# isort: split
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

# What a position teaches; the loss has a weight for each (``LossWeights``), and is logged for each.
KINDS = ("text", "transcript", "answer", "style", "units", "frame", "prompt_units", "prompt_text")
TEXT, TRANSCRIPT, ANSWER, STYLE, UNITS, FRAME, PROMPT_UNITS, PROMPT_TEXT = range(len(KINDS))
NOTHING = -1

# What a conversation holds beside text; the loss is logged for each (``loss_image``, ...).
MODALITIES = ("text", "image", "speech", "omni")

PACKED_ATTENTION = "emova_packed"


@dataclass(frozen=True)
class LossWeights:
    """How much a position of each kind counts; the loss is divided by the sum of the weights."""

    text: float = 1.0
    """A plain answer."""
    transcript: float = 1.0
    answer: float = 1.0
    """The answer's text inside a spoken reply."""
    style: float = 1.0
    units: float = 0.5
    """Speech that the assistant says: many tokens, each with little news."""
    frame: float = 0.1
    """A reply's keys and punctuation, which the grammar writes at inference anyway."""
    prompt_units: float = 0.0
    """Speech that the assistant hears."""
    prompt_text: float = 0.0
    prompt_share: float = 1.0
    """The share of prompt positions, drawn anew each time, that the loss is taken at: the vocabulary head costs a
    quarter of a step, and a prompt's tokens are many."""

    def table(self) -> Tensor:
        """[len(KINDS)]"""
        return torch.tensor([getattr(self, kind) for kind in KINDS])


@dataclass(frozen=True)
class Example:
    """One rendered conversation.

    Attributes:
        ids: [N] int64.
        kinds: [N] int8, what each position teaches, NOTHING where it is only read.
        pixel_values: [tiles, 3, height, width] or None.
        grids: rows and columns of each picture.
        task: where it came from.
        seen: what its picture's marks name, and where.
    """

    ids: np.ndarray
    kinds: np.ndarray
    pixel_values: Tensor | None
    grids: tuple[tuple[int, int], ...]
    task: str
    seen: SeenWords = field(default_factory=SeenWords.none)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def modality(self) -> int:
        """Its place in ``MODALITIES``."""
        speech = bool(np.isin(self.kinds, (UNITS, PROMPT_UNITS)).any())
        return int(self.pixel_values is not None) + 2 * int(speech)


def example(rendered: Any, assistant_kinds: Sequence[int], token_ids: TokenIds, task: str = "") -> Example:
    """A rendered conversation and what its assistant tokens teach, as arrays.

    Args:
        rendered: of ``EmovaProcessor.render_training``.
        assistant_kinds: one for each position of ``rendered.loss_mask`` that is true.
    """
    ids = np.asarray(rendered.input_ids, dtype=np.int64)
    learnt = np.asarray(rendered.loss_mask, dtype=bool)
    assert int(learnt.sum()) == len(assistant_kinds), "the rendering and the kinds disagree"
    kinds = np.full(len(ids), NOTHING, dtype=np.int8)
    heard = (ids >= token_ids.first_unit) & (ids < token_ids.first_unit + token_ids.codebook_size)
    kinds[heard & ~learnt] = PROMPT_UNITS
    kinds[(ids < token_ids.pad) & ~learnt] = PROMPT_TEXT  # text tokens lie below the control tokens
    kinds[learnt] = assistant_kinds
    kinds[0] = NOTHING  # nothing comes before it to predict it from
    grids = tuple((grid.rows, grid.columns) for grid in rendered.image_grids)
    return Example(ids, kinds, rendered.pixel_values, grids, task)


def collate(packs: Sequence[Sequence[Example]], weights: LossWeights) -> dict[str, Tensor]:
    """The batch of several packs, as one row.

    Returns:
        input_ids, sequence_ids [1, N]; cu_seq_lens [S + 1]; keep [K], the positions to predict from; targets, kinds,
        modalities, weights [K]; heard [P, 4], see ``emova_train.stages.losses.ctc``; seen [E, 3] (kind, position, target) and
        seen_shares [E], see ``emova_train.stages.losses.grounding``; pixel_values and image_grids where there are pictures.
    """
    examples = [each for pack in packs for each in pack]
    assert examples
    lengths = np.asarray([len(each) for each in examples])
    ids = np.concatenate([each.ids for each in examples])
    kinds = np.concatenate([each.kinds for each in examples]).astype(np.int64)
    table = weights.table().numpy()
    weight = np.where(kinds == NOTHING, 0.0, table[kinds])
    if weights.prompt_share < 1:
        # The engine seeds numpy's generator for each batch.
        left_out = np.random.random(len(weight)) >= weights.prompt_share
        weight[left_out & (kinds >= PROMPT_UNITS)] = 0.0
    predicted = np.flatnonzero(weight > 0)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    heard = [
        heard_spans(each.kinds == PROMPT_UNITS, each.kinds == TRANSCRIPT) + first
        for each, first in zip(examples, bounds, strict=False)
    ]
    seen = [
        np.stack(
            [
                each.seen.kinds,
                each.seen.positions + first,
                each.seen.targets + np.where(each.seen.kinds == LOOK, first, 0),
            ],
            axis=1,
        )
        for each, first in zip(examples, bounds, strict=False)
    ]
    batch = {
        "input_ids": torch.from_numpy(ids)[None],
        "sequence_ids": torch.from_numpy(np.repeat(np.arange(len(examples)), lengths))[None],
        "cu_seq_lens": torch.from_numpy(bounds).to(torch.int32),
        "keep": torch.from_numpy(predicted - 1),
        "targets": torch.from_numpy(ids[predicted]),
        "kinds": torch.from_numpy(kinds[predicted]),
        "modalities": torch.from_numpy(np.repeat([each.modality for each in examples], lengths)[predicted]),
        "weights": torch.from_numpy(weight[predicted].astype(np.float32)),
        "heard": torch.from_numpy(np.concatenate(heard)),
        "seen": torch.from_numpy(np.concatenate(seen)),
        "seen_shares": torch.from_numpy(np.concatenate([each.seen.shares for each in examples])),
    }
    tiles = [each.pixel_values for each in examples if each.pixel_values is not None]
    if tiles:
        batch["pixel_values"] = torch.cat(tiles)
        batch["image_grids"] = torch.tensor([grid for each in examples for grid in each.grids])
    return batch


def packed_loss(
    model: Any,
    batch: Mapping[str, Tensor],
    heard_text: HeardTextConfig | None = None,
    seen_words: SeenWordsConfig | None = None,
) -> dict[str, Tensor]:
    """The weighted mean cross entropy of a collated batch, that of each modality, and the plain mean of each kind.

    Args:
        model: an EmovaForConditionalGeneration.
        heard_text: with a weight, its loss joins that of training.
        seen_words: the same.
    """
    pictures = {name: batch[name] for name in ("pixel_values", "image_grids") if name in batch}
    bounds = batch["cu_seq_lens"]
    longest = int((bounds[1:] - bounds[:-1]).max())
    spans_P4 = batch["heard"]
    listens = heard_text if heard_text is not None and heard_text.weight > 0 else None
    looks = seen_words if seen_words is not None and seen_words.weight > 0 else None
    language_model = model.model.language_model
    looking = language_model.layers[looks.word_layer - 1].self_attn if looks and looks.heads else None
    with projections(looking) as projected:
        outputs = model.model(
            input_ids=batch["input_ids"],
            sequence_ids=batch["sequence_ids"],
            cu_seq_lens_q=bounds,
            cu_seq_lens_k=bounds,
            max_length_q=longest,
            max_length_k=longest,
            use_cache=False,
            output_hidden_states=listens is not None or looks is not None,
            **pictures,
        )
    hidden_KD = outputs.last_hidden_state[0, batch["keep"]]
    count = len(hidden_KD)
    norm = language_model.norm
    if listens:
        # Also where nothing is heard: under ZeRO-3 the processes wait for each other in every module.
        middle_ND = outputs.hidden_states[listens.layer][0]
        hidden_KD = torch.cat([hidden_KD, norm(middle_ND[heard_positions(spans_P4)])])
    heard_end = len(hidden_KD)
    seen_E3 = batch["seen"]
    place_E = torch.zeros_like(seen_E3[:, 0])  # which row of the logits an entry is about
    if looks:
        for kind, layer in ((PLACE, looks.layer), (WORD, looks.word_layer)):
            own = seen_E3[:, 0] == kind
            positions_P, places = torch.unique(seen_E3[own, 1], return_inverse=True)
            place_E[own] = places + len(hidden_KD)
            hidden_KD = torch.cat([hidden_KD, norm(outputs.hidden_states[layer][0][positions_P])])
    # Through the module, not its weight: where weights are spread over processes, the call gathers them.
    all_logits = model.lm_head(hidden_KD)
    logits = all_logits[:count, : model.config.token_count]
    losses_K = functional.cross_entropy(logits.float(), batch["targets"], reduction="none")
    weights_K = batch["weights"]
    terms = {"loss": (losses_K * weights_K).sum() / weights_K.sum().clamp_min(1e-6)}
    beside: list[tuple[str, float, Tensor]] = []
    if listens and len(spans_P4):
        blank = model.config.pad_token_id  # text tokens lie below it
        loss = heard_text_loss(all_logits[count:heard_end, : blank + 1], batch["input_ids"][0], spans_P4)
        beside.append(("heard_text", listens.weight, loss))
    if looks:
        text_PV = all_logits[:, : model.config.pad_token_id]
        for name, kind in (("seen_places", PLACE), ("seen_words", WORD)):
            own = seen_E3[:, 0] == kind
            if bool(own.any()):
                loss = seen_words_loss(text_PV, place_E[own], seen_E3[own, 2], batch["seen_shares"][own])
                beside.append((name, looks.weight, loss))
        own = seen_E3[:, 0] == LOOK
        if looking is not None and bool(own.any()):
            query_HNC, key_HNC = _rotated(language_model, looking, projected, looks.heads)
            loss = looking_loss(query_HNC, key_HNC, bounds.tolist(), seen_E3[own])
            beside.append(("looking", looks.weight, loss))
    for name, weight, loss in beside:
        terms[name] = loss.detach()
        if model.training:
            terms["loss"] = terms["loss"] + weight * loss
    plain_K = losses_K.detach()
    for kind in torch.unique(batch["kinds"]).tolist():
        chosen = batch["kinds"] == kind
        terms[KINDS[kind]] = plain_K[chosen].mean()
        if not model.training:
            right = logits[chosen].argmax(-1) == batch["targets"][chosen]
            terms[f"{KINDS[kind]}_accuracy"] = right.float().mean()
    for modality in torch.unique(batch["modalities"]).tolist():
        own_K = weights_K * (batch["modalities"] == modality)
        terms[f"loss_{MODALITIES[modality]}"] = (plain_K * own_K).sum() / own_K.sum()
    return terms


def _rotated(language_model: Any, attention: Any, projected: Mapping[str, Tensor], heads: int) -> tuple[Tensor, Tensor]:
    """Queries and keys of an attention's first heads as it compares them, [heads, N, C] each.

    The rotation counts from the row's beginning: within a sequence only distances matter.
    """
    query, key = (
        projected[name].unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for name in ("q_proj", "k_proj")
    )
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    places = torch.arange(query.shape[2], device=query.device)[None]
    cosine, sine = language_model.rotary_emb(query, places)
    query, key = apply_rotary_pos_emb(query[:, :heads], key[:, :heads], cosine, sine)
    return query[0], key[0]


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence alone; its cost grows with their lengths, not with the row's.

    Args:
        query: [1, H, N, C]; key and value: [1, G, N, C].
        cu_seq_lens_q: [S + 1], where the sequences begin and end.
        max_length_q: the longest sequence.

    Returns:
        [1, N, H, C]
    """
    assert attention_mask is None and cu_seq_lens_q is not None, "packed attention is for packed training alone"
    if torch.is_autocast_enabled(query.device.type):
        # The rotation of queries and keys is done in float32, and left there it doubles the time of what follows.
        query, key, value = (each.to(torch.get_autocast_dtype(query.device.type)) for each in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    if query.is_cuda and query.dtype != torch.float32 and dropout == 0.0 and max_length_q is not None:
        return _varlen_attention(query, key, value, cu_seq_lens_q, max_length_q, scale), None
    bounds = cu_seq_lens_q.tolist()
    parts = []
    for first, last in zip(bounds, bounds[1:], strict=False):
        q, k, v = (each[:, :, first:last] for each in (query, key, value))
        if q.device.type == "cpu" and q.dtype == torch.bfloat16 and dropout == 0.0:
            parts.append(_plain_attention(q, k, v, scale))
        else:
            parts.append(
                functional.scaled_dot_product_attention(
                    q, k, v, is_causal=True, dropout_p=dropout, scale=scale, enable_gqa=True
                )
            )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _varlen_attention(query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, longest: int, scale: float) -> Tensor:
    """All sequences by one kernel, which a GPU needs: [1, N, H, C]."""
    from torch.nn.attention.varlen import varlen_attn

    shared = query.shape[1] // key.shape[1]
    query, key, value = (each[0].transpose(0, 1) for each in (query, key, value))
    # Each key-value head for each of its queries: not every release of torch takes fewer of them.
    key, value = (each.repeat_interleave(shared, dim=1) for each in (key, value))
    attended = varlen_attn(
        query.contiguous(), key, value, bounds, bounds, longest, longest, scale=scale, window_size=(-1, 0)
    )
    assert isinstance(attended, Tensor)
    return attended[None]


def _plain_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention by matrix products, which a CPU trains twice as fast in bfloat16 as torch's fused kernel."""
    _, heads, length, width = query.shape
    groups = key.shape[1]
    grouped = (query * scale).reshape(1, groups, heads // groups * length, width)
    scores = (grouped @ key.transpose(-1, -2)).view(1, heads, length, length)
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    shares = scores.masked_fill(future, -torch.inf).softmax(-1, dtype=torch.float32).to(value.dtype)
    return (shares.view(1, groups, heads // groups * length, length) @ value).view(1, heads, length, width)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


ALL_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, packed_attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED_ATTENTION, _no_mask)
