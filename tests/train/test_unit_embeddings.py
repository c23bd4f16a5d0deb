"""Units that the phone decoder reads alike start close together in the language model."""

from __future__ import annotations

import torch

from emova.speech.tokenizer.s2u import S2UConfig, S2UTokenizer
from emova_train.stages.unit_embeddings import carried_over, phone_profile, unit_embeddings


def test_embeddings_follow_the_phone_profiles() -> None:
    torch.manual_seed(0)
    tokenizer = S2UTokenizer(S2UConfig(levels=[3, 3])).eval()
    profile = phone_profile(tokenizer)
    table = unit_embeddings(tokenizer, hidden=64, std=0.02, own=0.1)
    assert table.shape == (9, 64)
    assert abs(table.std().item() - 0.02) < 0.004
    far = torch.cdist(profile, profile).flatten().argmax().item()
    near = (torch.cdist(profile, profile) + 9 * torch.eye(9)).flatten().argmin().item()

    def distance(pair: int) -> float:
        return (table[pair // 9] - table[pair % 9]).norm().item()

    assert distance(int(near)) < distance(int(far))


def test_embeddings_are_reproducible() -> None:
    torch.manual_seed(0)
    tokenizer = S2UTokenizer(S2UConfig(levels=[3, 3])).eval()
    assert torch.equal(unit_embeddings(tokenizer, 8, 0.02, seed=1), unit_embeddings(tokenizer, 8, 0.02, seed=1))


def test_carried_over_embeddings_follow_the_phones() -> None:
    tokenizer = S2UTokenizer(S2UConfig(levels=[3, 3])).eval()
    learnt = phone_profile(tokenizer) @ torch.randn(phone_profile(tokenizer).shape[1], 16)
    carried = carried_over(learnt, tokenizer, tokenizer)
    assert torch.nn.functional.cosine_similarity(carried, learnt).mean() > 0.9
