"""vLLM's decode and prefill, noisy beside clean and beside the naive ways: ratios of one run.

    python benchmarks/vllm_throughput.py [--layers 6] [--hidden 896] [--sequences 64 ...]
      [--json FILE] [--plot FILE.svg]

Each way is an engine in a process of its own; all are alive at once and take turns, on a GPU each
with its share of the memory. The naive ways
add randn_like(y) * y.abs() * s to every linear layer's output, traced by the compiler or with it
switched off.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).parent))
from common import alternate, machine, median, plot, ratios, save, table

SCALE = 0.05
EVERYTHING = ["linear", "norm", "activation", "attention"]
BASE = "clean, plugin not loaded"
PROMPT = 512
"""Tokens of a prompt whose prefill is timed."""
WAYS: dict[str, dict[str, Any]] = {
    BASE: {"plugins": ""},
    "ours, scale 0": {"targets": EVERYTHING, "scale": 0.0},
    "ours, linear": {"targets": ["linear"], "exclude": ["lm_head"], "scale": SCALE},
    "ours, linear and norms": {"targets": ["linear", "norm"], "scale": SCALE},
    "ours, every kind": {"targets": EVERYTHING, "scale": SCALE},
    "nvfp4-w4a16": {"targets": ["linear"], "exclude": ["lm_head"], "error": "nvfp4", "scale": 1.0}
    | {"point": "weight"},
    "naive, compiled": {"plugins": "", "naive": True},
    "naive, eager": {"plugins": "", "naive": True, "eager": True},
}


def _inputs(error: str, **more: Any) -> dict[str, Any]:
    """A number format on the inputs of every linear layer; weights are quantised once, not here."""
    return {"targets": ["linear"], "exclude": ["lm_head"], "error": error, "point": "input", **more}


FORMATS: dict[str, dict[str, Any]] = {
    "inputs in mxfp4": _inputs("mxfp4"),
    "inputs in nvfp4": _inputs("nvfp4", options={"tensor_scale": "row"}),
    "inputs in hif4": _inputs("hif4"),
    "inputs in int8": _inputs("int8"),
    # Layers of several sites are multiplied part by part, and whole for scale 0; these are not.
    "inputs in mxfp4, o_proj and down_proj": {
        **_inputs("mxfp4"),
        "targets": ["*.o_proj", "*.down_proj"],
        "exclude": [],
    },
}
"""Measured where `--way` names them."""
RULE = ("targets", "exclude", "scale", "error", "point", "options")


def make_model(folder: Path, layers: int, hidden: int, dtype: str) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=16_384,
        hidden_size=hidden,
        intermediate_size=hidden * 38 // 7 // 64 * 64,  # Qwen2.5-0.5B's shape at 896
        num_hidden_layers=layers,
        num_attention_heads=max(2, hidden // 64),
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    Qwen2ForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(folder)


def naive() -> None:
    """Patches this process's vLLM, as people do."""
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    original = UnquantizedLinearMethod.apply

    def apply(self: Any, layer: Any, x: torch.Tensor, bias: Any = None) -> torch.Tensor:
        y = original(self, layer, x, bias)
        return y + torch.randn_like(y) * y.abs() * SCALE

    UnquantizedLinearMethod.apply = apply  # type: ignore[method-assign]


def serve(settings: dict[str, Any]) -> None:
    """The child: an engine that does what each line of its input says, and answers 'done'."""
    out, sys.stdout = sys.stdout, sys.stderr
    from vllm import LLM, SamplingParams

    if settings.get("naive"):
        naive()
    rule = {key: settings[key] for key in RULE if key in settings}
    noisy = {
        "quantization": "hetero_noise",
        "additional_config": {"hetero_noise": {"rules": [rule]}},
    }
    llm = LLM(
        settings["model"],
        dtype=settings["dtype"],
        skip_tokenizer_init=True,
        max_model_len=1024,
        max_num_seqs=max(settings["sequences"]),
        max_num_batched_tokens=1024,
        enable_prefix_caching=False,
        kv_cache_memory_bytes=512 << 20,
        enforce_eager=bool(settings.get("eager")),
        **({"gpu_memory_utilization": settings["share"]} if torch.cuda.is_available() else {}),
        **(noisy if rule else {}),
    )
    if rule and rule.get("scale", 1.0):
        from hetero_plugin.vllm import client

        status = client.status(llm)
        assert status["noisy"] and status["active"] > 0, "this engine must be noisy to count"
    generator = torch.Generator().manual_seed(0)

    def prompts(count: int, length: int) -> list[dict[str, list[int]]]:
        ids = torch.randint(1, 16_384, (count, length), generator=generator)
        return [{"prompt_token_ids": row} for row in ids.tolist()]

    def run(count: int, length: int, tokens: int) -> None:
        params = SamplingParams(
            temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False
        )
        llm.generate(prompts(count, length), params, use_tqdm=False)

    def do(word: str) -> None:
        what, count = word.split()
        if what == "decode":
            run(int(count), 4, settings["tokens"])
        else:
            run(int(count), PROMPT, 1)

    for word in settings["words"]:
        do(word)
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        do(line.strip())
        print("done", file=out, flush=True)


class Child:
    """The other end of `serve`."""

    def __init__(self, settings: dict[str, Any], log: Path) -> None:
        environ = dict(os.environ, VLLM_ENABLE_V1_MULTIPROCESSING="0")
        if "plugins" in settings:
            environ["VLLM_PLUGINS"] = settings["plugins"]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
            env=environ,
        )
        self.log = log
        self.wait("ready")

    def wait(self, word: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == word:
                return
        sys.exit(f"an engine died:\n{self.log.read_text()[-3000:]}")

    def ask(self, word: str) -> None:
        print(word, file=self.process.stdin, flush=True)
        self.wait("done")


def main(
    layers: Annotated[int, typer.Option(help="Decoder layers.")] = 6,
    hidden: Annotated[int, typer.Option(help="Hidden size.")] = 896,
    sequences: Annotated[
        list[int] | None,
        typer.Option(min=1, help="That decode together; several; default: 64, on a GPU 1 to 256."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens that each decodes.")] = 32,
    dtype: Annotated[str, typer.Option(help="bfloat16 or float32.")] = "bfloat16",
    runs: Annotated[int, typer.Option(min=3, help="Alternating runs.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Save the numbers.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw decode's ratios.")] = None,
    way: Annotated[list[str] | None, typer.Option(help="Of these only, and clean.")] = None,
    child: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print the table."""
    if child is not None:
        serve(json.loads(child))
        return
    known = WAYS | FORMATS
    unknown = set(way or ()) - set(known)
    if unknown:
        sys.exit(f"--way {', '.join(sorted(unknown))}: there are {', '.join(map(repr, known))}")
    ways = {name: one for name, one in WAYS.items() if not way or name in way or name == BASE}
    ways |= {name: FORMATS[name] for name in FORMATS if name in (way or ())}
    cuda = torch.cuda.is_available()
    batches = sequences or ([1, 16, 64, 256] if cuda else [64])
    words = [f"decode {n}" for n in batches] + [f"prefill {n}" for n in (batches if cuda else [4])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        make_model(path / "model", layers, hidden, dtype)
        common = {"model": str(path / "model"), "dtype": dtype, "words": words}
        common |= {"sequences": batches, "tokens": tokens, "share": 0.9 / len(ways)}
        children: dict[str, Child] = {}
        for name, settings in ways.items():
            print(f"starting: {name} ...", file=sys.stderr)
            children[name] = Child({**settings, **common}, path / f"{len(children)}.log")
        measured: dict[str, dict[str, list[float]]] = {}
        for word in words:
            print(f"measuring {word} ...", file=sys.stderr)
            turns: dict[str, Callable[[], object]] = {
                name: lambda one=one, word=word: one.ask(word)  # type: ignore[misc]
                for name, one in children.items()
            }
            measured[word] = alternate(turns, runs)
        for one in children.values():
            assert one.process.stdin is not None
            one.process.stdin.close()
            one.process.wait(60)
    print(f"{layers} x {hidden}, {dtype}, {machine()}")
    # Throughput, so clean's seconds over this way's: 1 is as fast as clean.
    speed = {
        word: {n: [1 / r for r in each] for n, each in ratios(times, BASE).items()}
        for word, times in measured.items()
    }
    for what, each in (("decode", tokens), ("prefill", PROMPT)):
        these = [word for word in words if word.startswith(what)]
        head, rows = ["way"], [[name] for name in ways]
        for word in these:
            count = int(word.split()[1])
            head += [f"{word}: tokens/s", "clean = 1"]
            for row in rows:
                seconds = statistics.median(measured[word][row[0]])
                row += [f"{count * each / seconds:.0f}", median(speed[word][row[0]])]
        print(f"\n{what}, {each} tokens of each sequence\n\n{table(head, rows)}")
    save(json_file, {"seconds": measured})
    last = f"decode {batches[-1]}"
    plot(plot_file, speed[last], f"vLLM, {last} sequences", "throughput, clean = 1")


if __name__ == "__main__":
    typer.run(main)
