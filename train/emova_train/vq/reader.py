"""What reads the words behind the codebook, as it begins: the rest of a Whisper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from emova.speech.tokenizer.whisper_vq.reader import ReaderConfig, WhisperReader, WordDecoder
from emova_train.vq.whisper import Whisper, block_state


def word_decoder(whisper: Whisper) -> WordDecoder:
    """Whisper's decoder as it was trained."""
    made = WordDecoder(whisper.config)
    made.decoder.load_state_dict(_decoder_state(whisper))
    return made


def _decoder_state(whisper: Whisper) -> Mapping[str, object]:
    own = "decoder."
    return {name.removeprefix(own): value for name, value in whisper.state.items() if name.startswith(own)}


def reader_of(
    whisper: Whisper, first: int, pooling: int, block: int, prompts: Mapping[str, Sequence[int]]
) -> WhisperReader:
    """A reader that begins as the rest of ``whisper``.

    Args:
        first: the encoder's layers that lie before the codebook.
        pooling: encoder frames a unit.
        block: units that see each other.
        prompts: by language, what the decoder reads before the text.
    """
    given = whisper.config
    reader = WhisperReader(
        ReaderConfig(
            given.d_model, given.encoder_attention_heads, given.encoder_ffn_dim, given.encoder_layers - first,
            -(-given.max_source_positions // pooling), max(1, block), given.decoder_layers,
            given.decoder_attention_heads, given.decoder_ffn_dim, given.vocab_size, given.max_target_positions,
            {language: list(prompt) for language, prompt in prompts.items()}, whisper.text.end,
        )
    )  # fmt: skip
    # A unit stands where its first frame did: the decoder finds its place in time by that.
    reader.positions.load_state_dict({"weight": whisper.state["encoder.embed_positions.weight"][::pooling]})
    for index, layer in enumerate(reader.layers):
        layer.load_state_dict(block_state(whisper, first + index))
    reader.norm.load_state_dict({kind: whisper.state[f"encoder.layer_norm.{kind}"] for kind in ("weight", "bias")})
    reader.words.decoder.load_state_dict(_decoder_state(whisper))
    return reader
