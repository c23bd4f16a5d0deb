"""Unit embeddings that know from the start which units sound alike.

A language model that starts from scratch would have to find out for each of the 4,096 units alone what it stands for.
The S2U tokenizer's phone decoder knows: it reads phones from each unit by itself. Units with the same phones start
close together, at the spread that the embedding table has anyway.

V: units, P: phone probabilities of a unit, H: hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emova.core.errors import InputError
from emova.speech.tokenizer.s2u import S2UTokenizer


@torch.inference_mode()
def phone_profile(tokenizer: S2UTokenizer) -> Tensor:
    """For each unit the probabilities of the phones in its 40 ms, read from the unit alone: [V, P]."""
    codes_V1C = tokenizer.quantizer.codes(torch.arange(tokenizer.codebook_size)[:, None])
    logits_VNP = tokenizer.phone_decoder(codes_V1C).frame
    return logits_VNP.softmax(-1).flatten(1)


def unit_embeddings(tokenizer: S2UTokenizer, hidden: int, std: float, seed: int = 0, own: float = 0.3) -> Tensor:
    """Initial embeddings [V, H]: a random projection of the phone profiles plus a share ``own`` of noise a unit.

    Args:
        tokenizer: the trained S2U tokenizer, with its phone decoder.
        hidden: H.
        std: the standard deviation that the embedding table is initialised with.
        seed: of the projection and the noise.
        own: the share of the variance that tells units with equal phones apart.
    """
    profile_VP = phone_profile(tokenizer)
    generator = torch.Generator().manual_seed(seed)
    shared_VH = (profile_VP - profile_VP.mean(0)) @ torch.randn(profile_VP.shape[1], hidden, generator=generator)
    shared_VH = shared_VH / shared_VH.std()
    noise_VH = torch.randn(shared_VH.shape, generator=generator)
    return std * ((1 - own) ** 0.5 * shared_VH + own**0.5 * noise_VH)


@torch.inference_mode()
def carried_over(trained_VH: Tensor, before: S2UTokenizer, after: S2UTokenizer, seed: int = 0) -> Tensor:
    """The embeddings of a new tokenizer's units, [V, H], from those that a model learnt for another tokenizer's.

    A linear map from phone profiles to embeddings is fitted (ridge regression) to the old units and read at the new
    ones; noise as large as the fit's misses tells units with equal phones apart.

    Args:
        trained_VH: the learnt embeddings of the units of ``before``.

    Raises:
        InputError: the two have different phones.
    """
    if before.config.phones != after.config.phones:
        raise InputError("the tokenizers tell different phones apart; embeddings carry over between equal inventories")
    old_VP, new_VP = (torch.nn.functional.pad(phone_profile(each), (0, 1), value=1.0) for each in (before, after))
    penalty_PP = 1e-2 * len(old_VP) / old_VP.shape[1] * torch.eye(old_VP.shape[1])
    map_PH = torch.linalg.solve(old_VP.T @ old_VP + penalty_PP, old_VP.T @ trained_VH.float())
    miss = (trained_VH - old_VP @ map_PH).std()
    noise_VH = torch.randn(len(new_VP), trained_VH.shape[1], generator=torch.Generator().manual_seed(seed))
    return new_VP @ map_PH + 0.5 * miss * noise_VH
