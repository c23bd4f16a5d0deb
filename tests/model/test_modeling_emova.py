from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

from emova.model import EmovaForConditionalGeneration, TokenIds


@pytest.fixture()
def batch(tiny_processor):
    picture = Image.new("RGB", (40, 30), (200, 30, 30))
    messages = [
        {"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What is red?"}]}
    ]
    return tiny_processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)


def test_save_and_load_are_bit_equal_and_auto_classes_find_us(tiny_model, batch, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.to_diff_dict() | {"_name_or_path": ""} == tiny_model.config.to_diff_dict() | {"_name_or_path": ""}
    assert config.vision == tiny_model.config.vision and config.projector == tiny_model.config.projector
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(loaded, EmovaForConditionalGeneration)
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert torch.equal(tiny_model(**batch).logits, loaded(**batch).logits)
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight


def test_half_precision_storage_loads_as_full_precision(tiny_model, batch, tmp_path):
    before = tiny_model(**batch).logits[..., : tiny_model.config.token_count]
    tiny_model.half().save_pretrained(tmp_path)
    loaded = EmovaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    after = loaded(**batch).logits[..., : loaded.config.token_count]
    torch.testing.assert_close(after, before, atol=2e-3, rtol=2e-2)


def test_the_picture_changes_the_logits(tiny_model, batch):
    first = tiny_model(**batch).logits
    batch["pixel_values"] = batch["pixel_values"] + 1
    assert not torch.allclose(first, tiny_model(**batch).logits)


def test_placeholders_and_pictures_must_match(tiny_model, batch):
    short = batch["input_ids"].clone()
    short[0, (short[0] == tiny_model.config.image_token_id).nonzero()[0]] = 5
    with pytest.raises(ValueError, match="placeholders"):
        tiny_model(input_ids=short, pixel_values=batch["pixel_values"])
    with pytest.raises(ValueError, match="no pixel_values"):
        tiny_model(input_ids=batch["input_ids"])


def test_cached_equals_uncached(tiny_model, batch):
    continuation = torch.randint(5, 290, (1, 6))
    whole = torch.cat([batch["input_ids"], continuation], dim=1)
    expected = tiny_model(input_ids=whole, pixel_values=batch["pixel_values"]).logits
    prefill = tiny_model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"], use_cache=True)
    logits, cache = [prefill.logits], prefill.past_key_values
    for step in range(continuation.shape[1]):
        out = tiny_model(input_ids=continuation[:, step : step + 1], past_key_values=cache, use_cache=True)
        logits.append(out.logits)
        cache = out.past_key_values
    torch.testing.assert_close(torch.cat(logits, dim=1), expected)


def test_generate_uses_the_picture_in_the_prefill_only(tiny_model, batch, monkeypatch):
    calls = []
    original = type(tiny_model.model).get_image_features

    def counted(*args):
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(type(tiny_model.model), "get_image_features", counted)
    cached = tiny_model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert len(calls) == 1
    uncached = tiny_model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, use_cache=False)
    assert torch.equal(cached, uncached)


def test_left_padding_does_not_change_the_answer(tiny_model, tiny_processor):
    def messages(text):
        picture = Image.new("RGB", (28, 28), (0, 90, 200))
        return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]

    texts = ["Hello", "The quick brown fox jumps over the lazy dog."]
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
    both = tiny_processor.apply_chat_template([messages(text) for text in texts], **options)
    together = tiny_model.generate(**both, max_new_tokens=4, min_new_tokens=4, do_sample=False)[:, -4:]
    for row, text in enumerate(texts):
        alone = tiny_processor.apply_chat_template(messages(text), **options)
        single = tiny_model.generate(**alone, max_new_tokens=4, min_new_tokens=4, do_sample=False)[0, -4:]
        assert torch.equal(single, together[row])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_sequences_do_not_see_each_other(tiny_model, batch, attention):
    tiny_model.set_attn_implementation(attention)
    first, second = batch["input_ids"], torch.randint(5, 290, (1, 9))
    packed = torch.cat([second, first], dim=1)
    ids = torch.cat([torch.full_like(second, 1), torch.full_like(first, 2)], dim=1)
    together = tiny_model(input_ids=packed, pixel_values=batch["pixel_values"], sequence_ids=ids).logits
    alone = tiny_model(input_ids=first, pixel_values=batch["pixel_values"]).logits
    torch.testing.assert_close(together[:, :9], tiny_model(input_ids=second).logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[:, 9:], alone, atol=1e-5, rtol=1e-4)
    # transformers' own way, positions that start again, agrees.
    positions = torch.cat([torch.arange(9), torch.arange(first.shape[1])])[None]
    derived = tiny_model(input_ids=packed, pixel_values=batch["pixel_values"], position_ids=positions, use_cache=False)
    torch.testing.assert_close(together, derived.logits, atol=1e-5, rtol=1e-4)


def test_padding_rows_of_the_vocabulary_are_never_predicted(tiny_model, batch):
    config = tiny_model.config
    assert config.text_config.vocab_size % 128 == 0 and config.text_config.vocab_size >= config.token_count
    logits = tiny_model(**batch).logits
    assert (logits[..., config.token_count :] == torch.finfo(logits.dtype).min).all()


def test_loss_counts_labelled_positions_only(tiny_model, batch):
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -2:] = batch["input_ids"][0, -2:]
    out = tiny_model(**batch, labels=labels)
    expected = torch.nn.functional.cross_entropy(out.logits[0, -3:-1].float(), labels[0, -2:])
    torch.testing.assert_close(out.loss, expected)


def test_every_parameter_gets_a_gradient_without_a_picture(tiny_model):
    tiny_model.config.always_run_vision = True
    tiny_model.train()
    ids = torch.randint(5, 290, (2, 8))
    with_vision = tiny_model(input_ids=ids, labels=ids)
    with_vision.loss.backward()
    assert all(parameter.grad is not None for parameter in tiny_model.parameters())
    assert all((p.grad == 0).all() for p in tiny_model.model.vision_tower.parameters())
    tiny_model.config.always_run_vision = False
    assert torch.equal(with_vision.loss, tiny_model(input_ids=ids, labels=ids).loss)


def test_gradient_checkpointing_changes_nothing(tiny_model, batch):
    tiny_model.train()
    labels = batch["input_ids"]
    tiny_model(**batch, labels=labels).loss.backward()
    plain = {name: parameter.grad.clone() for name, parameter in tiny_model.named_parameters()}
    tiny_model.zero_grad()
    tiny_model.gradient_checkpointing_enable()
    assert tiny_model.model.vision_tower.grad_checkpointing
    tiny_model(**batch, labels=labels).loss.backward()
    for name, parameter in tiny_model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name])


@pytest.mark.parametrize("tied", [True, False])
def test_growing_a_plain_llama_keeps_what_it_knows(tiny_tokenizer, tiny_parts, tied):
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=32,
        tie_word_embeddings=tied,
    )
    llama = LlamaForCausalLM(config).eval()
    vision, projector = tiny_parts
    model = EmovaForConditionalGeneration.from_parts(
        llama, vision, projector, TokenIds.from_tokenizer(tiny_tokenizer), len(tiny_tokenizer)
    ).eval()
    ids = torch.randint(0, 300, (2, 7))
    torch.testing.assert_close(model(input_ids=ids).logits[..., :300], llama(input_ids=ids).logits)
    rows = model.get_input_embeddings().weight
    torch.testing.assert_close(rows[300], llama.get_input_embeddings().weight.mean(0))
    assert (model.lm_head.weight is rows) == tied
