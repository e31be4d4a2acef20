"""Pooling models: the decoder's noise under another head than lm_head.

Embeddings, compiled, from a language model's checkpoint; classes, eager, from a classifier's.
Hugging Face says what they should be, one prompt at a time, under the same specification.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from hetero_plugin.miniature.model import VOCAB_SIZE, build_tokenizer
from tests.engines.vllm_engine import Engine, make_model
from tests.engines.yardstick import FLOOR

pytestmark = pytest.mark.engine

SPEC: dict[str, Any] = {  # lm_head is excluded, as in the default spec, and is not there
    "rules": [
        {"targets": ["linear"], "exclude": ["lm_head"], "scale": 0.05},
        {"targets": ["norm", "activation", "attention"], "scale": 0.05},
    ],
    "seed": 6,
}
SHAPE: dict[str, Any] = {"hidden": 64, "heads": 2, "kv": 1, "inner": 96, "tied": False}
PROMPTS = [[3 + (j * 11 + i * 7 + j * j) % 190 for j in range(3 + 9 * i)] for i in range(9)]
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def gap(a: list[list[float]], b: list[list[float]]) -> float:
    pairs = [zip(x, y, strict=True) for x, y in zip(a, b, strict=True)]
    return max(abs(u - v) for pair in pairs for u, v in pair)


def embeddings(model: Any) -> list[list[float]]:
    """Of Hugging Face's decoder without a head: each prompt's last row, normalised."""
    import torch

    with torch.no_grad():
        rows = [model(torch.tensor([prompt])).last_hidden_state[0, -1] for prompt in PROMPTS]
    return [torch.nn.functional.normalize(row, dim=-1).tolist() for row in rows]


def classes(model: Any) -> list[list[float]]:
    import torch

    with torch.no_grad():
        return [model(torch.tensor([p])).logits[0].softmax(-1).tolist() for p in PROMPTS]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Path]]:
    folder = tmp_path_factory.mktemp("embed")
    model = make_model(folder / "model", dtype="float32", vocab=VOCAB_SIZE, **SHAPE)
    build_tokenizer().save_pretrained(model)  # vLLM's pooling entry points want one
    engine = Engine(
        folder / "embed.log",
        IN_PROCESS,
        model=str(model),
        dtype="float32",
        runner="pooling",
        skip_tokenizer_init=False,
        quantization="hetero_noise",
        additional_config={"hetero_noise": SPEC},
    )
    yield engine, model
    engine.close()


def test_embeddings_have_the_decoders_noise(embedder: tuple[Engine, Path]) -> None:
    import torch
    from transformers import AutoModel

    from hetero_plugin.hf import wrap

    engine, path = embedder
    model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    clean = embeddings(model)
    noisy = embeddings(wrap(model, SPEC))
    found = engine.ask("pooled", prompts=PROMPTS, task="embed")
    assert gap(noisy, clean) > 0.01, "the noise must be seen to count"
    assert gap(found, noisy) <= FLOOR
    engine.set(scale=0.0)
    assert gap(engine.ask("pooled", prompts=PROMPTS, task="embed"), clean) <= FLOOR
    engine.set(reset=True)
    assert gap(engine.ask("pooled", prompts=PROMPTS[::-1], task="embed"), noisy[::-1]) <= FLOOR


def test_an_embedding_engine_is_attested(embedder: tuple[Engine, Path]) -> None:
    engine, _ = embedder
    record = engine.ask("attest", spec=SPEC)
    assert record["passed"], record["failures"]
    assert (record["seen"], record["of"]) == (23, 23)
    assert "lm_head" not in record["by_kind"]


def test_z_classes_come_from_a_noisy_decoder_and_a_clean_head(
    embedder: tuple[Engine, Path], tmp_path: Path
) -> None:
    """Last here, as it ends the other engine: one at a time. The head is named as clean."""
    import torch
    from transformers import Qwen2ForSequenceClassification

    from hetero_plugin.hf import wrap

    embedder[0].close()
    torch.manual_seed(2)
    model = Qwen2ForSequenceClassification.from_pretrained(embedder[1], num_labels=3).float().eval()
    model.save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    clean = classes(model)
    noisy = classes(wrap(model, SPEC))
    engine = Engine(
        tmp_path / "classify.log",
        IN_PROCESS,
        model=str(tmp_path / "model"),
        dtype="float32",
        runner="pooling",
        skip_tokenizer_init=False,
        enforce_eager=True,
        quantization="hetero_noise",
        additional_config={"hetero_noise": SPEC},
    )
    try:
        found = engine.ask("pooled", prompts=PROMPTS, task="classify")
        assert gap(noisy, clean) > 0.002
        assert gap(found, noisy) <= FLOOR
        engine.set(scale=0.0)
        assert gap(engine.ask("pooled", prompts=PROMPTS, task="classify"), clean) <= FLOOR
        assert engine.status()["total"] == 23
        lines = [x for x in engine.log.read_text().splitlines() if "given pooled rows" in x]
        assert len(lines) == 1 and lines[0].endswith("no token's: score")
    finally:
        engine.close()
