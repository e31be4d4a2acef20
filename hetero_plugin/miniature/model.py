"""The miniature: a small Qwen2 and a byte-level Qwen2 tokenizer without merges.

With `model_type: qwen2`, `AutoTokenizer` rebuilds whatever tokenizer it finds as a
`Qwen2Tokenizer`; a small one must therefore be a genuine byte-level `Qwen2Tokenizer`, here with
256 bytes, three special tokens and no merges.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    pass

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_N_SPECIAL = 3
# 259 tokens, rounded up so that the vocabulary divides by tensor-parallel sizes up to 16.
VOCAB_SIZE = 272

# The answer follows "=" and is closed by the end token. No role markers: every token of the prompt
# costs a small model on a CPU as much as a token of the answer.
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}={{ m['content'] }}<|im_end|>{% else %}{{ m['content'] }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}={% endif %}"
)


class MiniatureShape(BaseModel):
    """Sizes of the miniature Qwen2."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=4, ge=1)
    hidden: int = Field(default=128, ge=16)
    intermediate: int = Field(default=256, ge=16)
    heads: int = Field(default=4, ge=1)
    kv_heads: int = Field(default=2, ge=1)
    positions: int = Field(default=128, ge=16)
    initializer_range: float = Field(default=0.05, gt=0)
    rope_theta: float = Field(default=100.0, gt=1)


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each byte value, in order of the byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols: dict[int, str] = {b: chr(b) for b in printable}
    spare = 256
    for b in range(256):
        if b not in symbols:
            symbols[b] = chr(spare)
            spare += 1
    return [symbols[b] for b in range(256)]


def build_tokenizer() -> Any:
    """A `Qwen2Tokenizer` with one token a byte: ids 0..2 special, 3+b for byte b."""
    from transformers import Qwen2Tokenizer

    vocab = {PAD: 0, START: 1, END: 2}
    vocab.update({symbol: _N_SPECIAL + b for b, symbol in enumerate(_byte_symbols())})
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        unk_token=PAD,
        bos_token=None,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[START, END],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(shape: MiniatureShape, seed: int) -> Any:
    """A freshly initialised float32 `Qwen2ForCausalLM` (weights a function of `seed`)."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        attention_dropout=0.0,
        initializer_range=shape.initializer_range,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model and tokenizer as a Hugging Face checkpoint folder."""
    from transformers.utils import logging

    folder.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()  # one file of 3 MB; its bar would tear the demo's display
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
