"""lm-eval's own command under noise, in vLLM and in Hugging Face, on a task of local files.

lm-eval is none of the tests' packages (it brings many): where it is missing this is skipped, and
`make lm-eval` runs it, with lm-eval in a folder of its own. Four engines of vLLM: minutes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_plugin.config import NoiseConfig
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None,
        reason="lm-eval is not installed: make lm-eval",
    ),
]

TASK = """\
task: local_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 4, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1}}
"""
N = 24
HF = """\
import sys
from hetero_plugin import NoiseConfig, wrap
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer
import json
path, tasks, scale = sys.argv[1], sys.argv[2], float(sys.argv[3])
model = wrap(AutoModelForCausalLM.from_pretrained(path), NoiseConfig(preset="linear", scale=scale))
lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(path), batch_size=4)
found = simple_evaluate(lm, tasks=["local_sums"], task_manager=TaskManager(include_path=tasks),
                        log_samples=True)
print(json.dumps([row["resps"][0][0] for row in found["samples"]["local_sums"]]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm_eval")
    save(build_model(MiniatureShape(layers=2), 1), build_tokenizer(), path / "model")
    rows = [{"question": f"{n}+{2 * n}=", "answer": str(3 * n)} for n in range(11, 11 + N)]
    (path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "tasks").mkdir()
    (path / "tasks" / "sums.yaml").write_text(TASK.format(data=path / "sums.jsonl"))
    return path


def run(folder: Path, *words: str, **environment: str) -> str:
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def of_vllm(folder: Path, out: str, more: str, **environment: str) -> tuple[Path, str]:
    """The file of samples that lm-eval's command writes, and what it says."""
    arguments = f"pretrained={folder / 'model'},dtype=float32,max_model_len=64,seed=0{more}"
    said = run(
        folder,
        *(sys.executable, "-m", "lm_eval", "--model", "vllm", "--model_args", arguments),
        *("--tasks", "local_sums", "--include_path", "tasks", "--output_path", out),
        *("--log_samples", "--batch_size", "auto"),
        VLLM_CPU_KVCACHE_SPACE="1",
        **environment,
    )
    (found,) = (folder / out).rglob("samples_local_sums_*.jsonl")
    return found, said


def _named_vllm() -> bool:
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(
    not _named_vllm(),
    reason="lm-eval asks for a distribution called vllm, which the CPU wheel is not: make lm-eval",
)
def test_vllm_by_its_command_under_noise(folder: Path) -> None:
    from hetero_plugin.evaluation.harness.runs import read_run

    clean, quiet = of_vllm(folder, "clean", "")
    spec = json.dumps({"preset": "linear", "scale": 0.5})
    noisy, said = of_vllm(folder, "noisy", ",quantization=hetero_noise", HETERO_NOISE_CONFIG=spec)
    zero = json.dumps({"preset": "linear", "scale": 0.0})
    same, _ = of_vllm(folder, "zero", ",quantization=hetero_noise", HETERO_NOISE_CONFIG=zero)

    def answers(path: Path) -> list[str]:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [row["resps"][0][0] for row in sorted(rows, key=lambda row: row["doc_id"])]

    assert len(answers(clean)) == N and answers(same) == answers(clean)
    assert answers(noisy) != answers(clean)
    assert len(read_run(str(noisy)).items) == N, "compare takes what lm-eval really writes"

    # lm-eval makes no attestation: one of an engine like its own, of the specification it names.
    run(
        folder,
        *("hetero-noise", "attest", "--model", "model", "--engine", "vllm", "--dtype", "float32"),
        *("--config", spec, "--brief", "--out", "attested.json"),
        VLLM_CPU_KVCACHE_SPACE="1",
    )
    record = json.loads((folder / "attested.json").read_text())
    assert record["passed"] and record["seen"] == record["of"] > 0
    fingerprint = NoiseConfig.parse(json.loads(spec)).fingerprint
    assert record["fingerprint"] == fingerprint
    assert f"spec {fingerprint}" in said and "spec " + fingerprint not in quiet


def test_hugging_face_wrapped(folder: Path) -> None:
    def answers(scale: float) -> list[str]:
        said = run(folder, sys.executable, "-c", HF, str(folder / "model"), "tasks", str(scale))
        found: list[str] = next(
            json.loads(line) for line in said.splitlines() if line.startswith('["')
        )
        return found

    clean, noisy = answers(0.0), answers(0.5)
    assert len(clean) == N and clean != noisy
