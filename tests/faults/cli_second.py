"""Faults of text, of results written by two, and of the folder that the kernel is loaded from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hetero_plugin.config import ConfigError
from hetero_plugin.config.read import read_yaml
from hetero_plugin.evaluation import files, results
from tests import forked
from tests.evaluation.toy import simulate_run
from tests.faults.records import command
from tests.faults.registry import fault, noticed, refused


@fault(
    "the machine: a specification of 700 bytes that stands for 3 to the power of 30 pairs",
    "merge keys inside merge keys, each line merging the one before three times",
    "refused within seconds, before anything unfolds",
    by="error",
    engine="core",
)
def nested_merge_keys_without_end() -> str:
    lines = ["m0: &m0 {scale: 0.1}"]
    for i in range(1, 31):
        last = f"*m{i - 1}"
        lines.append(f"m{i}: &m{i} {{<<: [{last}, {{<<: [{last}, {last}]}}]}}")
    started = time.process_time()  # this process alone, whatever else the machine does
    words = refused(lambda: read_yaml("\n".join(lines)), "too large", "<<", kind=ConfigError)
    return noticed(time.process_time() - started < 20, words)


@fault(
    "layers: a range with a colon is one number in base 60 to YAML",
    "`layers: [1:13]` in a YAML file",
    "ConfigError that names the number and its base",
    by="error",
    engine="core",
)
def layers_in_base_60() -> str:
    text = "scale: 0.1\nlayers: [1:13]\n"
    return refused(lambda: read_yaml(text), "1:13", "base 60", kind=ConfigError)


@fault(
    "the seed: a leading zero makes it another",
    "`seed: 0100`, which YAML reads as 64",
    "ConfigError that names the number and its base",
    by="error",
    engine="core",
)
def seed_in_base_8() -> str:
    return refused(lambda: read_yaml("seed: 0100\n"), "0100", "base 8", kind=ConfigError)


@fault(
    "results: one of two runs' levels",
    "a second process on the file of an evaluation that is under way",
    "refused at its start, with the holder's process and host",
    by="error",
    engine="core",
)
def second_process_on_one_results_file() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "eval.json"
        code = (
            "import sys; from pathlib import Path; from hetero_plugin.evaluation import files\n"
            "with files.locked(Path(sys.argv[1])): pass\n"
        )
        with files.locked(path):
            done = subprocess.run(
                [sys.executable, "-c", code, str(path)], capture_output=True, text=True
            )
        last = (done.stderr.strip().splitlines() or ["nothing was raised"])[-1]
    return noticed(done.returncode != 0 and f"in use by process {os.getpid()} on" in last, last)


@fault(
    "an attestation's record, by another that was written meanwhile",
    "a file under the record's name, while the attestation runs",
    "both are kept, and the second's name is said",
    by="values",
    engine="core",
)
def record_of_another_run_meanwhile() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.json"
        path.write_text("theirs")
        written = files.write_new(path, {"mine": True})
        kept = path.read_text() == "theirs" and json.loads(written.read_text()) == {"mine": True}
    return noticed(kept and written != path, f"written to {written.name}")


@fault(
    "an accuracy: an outcome that is no 0 or 1",
    "a results file whose outcomes hold a 2 and a −1 more, so that their sum is still right",
    "exit status 2, with file, line and field",
    by="error",
    engine="cli",
)
def outcomes_that_are_none() -> str:
    with tempfile.TemporaryDirectory() as folder:
        run = simulate_run(Path(folder) / "run", steps=2)
        path = run / "eval" / "noise_aqn.json"
        document = json.loads(path.read_text())
        outcomes = document["levels"][0]["outcomes"]
        one, other = outcomes.index(1), outcomes.index(0)
        outcomes[one], outcomes[other] = 2, -1
        path.write_text(json.dumps(document, indent=1))
        code, words = command("report", run)
    field = "levels[0].outcomes["
    return noticed(code == 2 and f"{path}, line " in words and field in words, words)


@fault(
    "a comparison: the level that is compared is there twice",
    "a results file with a second row of one level, with other answers",
    "ResultError that names the level",
    by="error",
    engine="core",
)
def level_there_twice() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = simulate_run(Path(folder) / "run", steps=2) / "eval" / "clean.json"
        document = json.loads(path.read_text())
        document["levels"].append({**document["levels"][1], "session": 0})
        results.write_json(path, document)
        return refused(
            lambda: results.load(path), "level 0.05 is there twice", kind=results.ResultError
        )


def _kernel(folder: Path) -> tuple[str, str]:
    """Which kernel a new process loads from a cache folder, and what it warns of."""
    code = "from hetero_plugin.kernels import KERNEL; print(KERNEL)"
    env = {"HETERO_NOISE_CACHE": str(folder), "HETERO_NOISE_KERNEL": "native"}
    done = forked.python(code, folder=folder.parent / "said", env=env)
    return done.stdout.strip(), done.stderr


@fault(
    "the kernel: code of another user's in its place",
    "a cache folder that its group may write to, with a library in it",
    "the library is not loaded: the reference runs, and a warning names the folder",
    by="warning",
    engine="core",
)
def kernel_from_a_folder_of_the_group() -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "cache"
        folder.mkdir()
        folder.chmod(0o775)
        kernel, words = _kernel(folder)
        made = list(folder.iterdir())
    said = f"others can write to {folder}" in words and "RuntimeWarning" in words
    return noticed(kernel == "reference" and said and not made, words or kernel)


@fault(
    "the kernel: a folder that leads elsewhere",
    "a cache folder that is a link to one that anybody may write to",
    "not followed: the reference runs, and a warning names the link",
    by="warning",
    engine="core",
)
def kernel_cache_that_is_a_link() -> str:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "open").mkdir()
        (Path(name) / "open").chmod(0o777)
        link = Path(name) / "cache"
        link.symlink_to("open")
        kernel, words = _kernel(link)
        made = list((Path(name) / "open").iterdir())
    return noticed(kernel == "reference" and "symbolic link" in words and not made, words or kernel)
