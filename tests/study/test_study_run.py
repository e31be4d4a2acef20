"""Studies read, refused, resolved and run: with a program in verl's place. A few seconds."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hetero_plugin.cli import app
from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import files
from hetero_plugin.study import check, read, run, stages, summary
from hetero_plugin.study.resolve import Resolved, resolve, resolve_all
from hetero_plugin.study.stages import Stage
from hetero_plugin.verl import group, node
from hetero_plugin.verl.launch import LaunchError, MiniatureRun

RECIPES = Path(__file__).parents[2] / "recipes" / "studies"
BASE = """
model: {path: some/model, size: tiny}
data: {train: train.parquet, val: val.parquet}
steps: 4
seeds: [0, 3]
trainer: {actor_rollout_ref.actor.optim.lr: 1.0e-6, data.train_batch_size: 8}
where: node
places:
  node: {gpus: 2}
  slurm: {launch: slurm, options: {time: "1:00:00"}}
  ray: {launch: ray, nodes: 2}
"""
STUDY = """
base: base.yaml
name: it
about: a test
arms:
  clean: {about: clean, noise: null}
  noise: {about: noise, noise: {spec: spec.yaml, resample: call}}
"""
SPEC = "preset: linear\nscale: 0.02\naqn: {schedule: global, stages: 2}\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the study, with text after it, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def files(more: str = "", *, study: str = STUDY, base: str = BASE, spec: str = SPEC) -> Path:
        for name, text in (("base.yaml", base), ("it.yaml", study + more), ("spec.yaml", spec)):
            (tmp_path / name).write_text(text)
        return tmp_path / "it.yaml"

    return files


def test_a_study_lies_over_its_base(write: Any, tmp_path: Path) -> None:
    study = read(write("trainer: {data.train_batch_size: 16}\n"))
    assert study.trainer == {
        "actor_rollout_ref.actor.optim.lr": 1e-6,
        "data.train_batch_size": 16,
    }
    changed = read(
        tmp_path / "it.yaml", ["trainer.data.train_batch_size=4", "model.path=/m", "steps=2"]
    )
    assert changed.trainer["data.train_batch_size"] == 4
    assert changed.model.path == "/m" and changed.model.size == "tiny" and changed.steps == 2


def test_one_seed_reaches_everything(write: Any) -> None:
    found = resolve(read(write()), "noise", 3)
    seeds = {key: value for key, value in found.settings.items() if key.endswith("seed")}
    assert len(seeds) == 5 and set(seeds.values()) == {3}
    assert found.noise is not None and found.noise.aqn is not None
    assert (found.noise.seed, found.noise.aqn.seed, found.noise.resample) == (3, 3, "call")
    assert found.noise.aqn.total_steps == 4, "the run's length"
    assert found.folder.parts[-4:] == ("it", "tiny", "noise", "seed-3")


def test_commands_of_places(write: Any) -> None:
    study = read(write())
    here = resolve(study, "clean", 0).command()
    assert here[0] == "env" and here[2:5] == ["python3", "-m", "verl.trainer.main_ppo"]
    assert "trainer.n_gpus_per_node=2" in here and not any("hetero_noise" in w for w in here)
    slurm = resolve(study, "noise", 0, "slurm").command()
    assert slurm[0] == "sbatch" and "--time=1:00:00" in slurm and "hetero_noise" in slurm[-1]
    ray = resolve(study, "noise", 0, "ray").command()
    assert ray[:3] == ["ray", "job", "submit"] and "trainer.nnodes=2" in ray


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("stepps: 3\n", "unknown key 'stepps'. Did you mean 'steps'?"),
        ("seeds: []\n", "seeds: got []; give one or more"),
        ("seeds: [1, 1]\n", "each once"),
        ("where: nodes\n", "where: 'nodes' is no place of it. Did you mean 'node'?"),
        ("evaluation: {levels: [0.1]}\n", "levels: got [0.1]; they should be 0"),
        ("evaluation: {contrasts: [[noise, clear]]}\n", "'clear' is no arm of it. Did you mean"),
        ("evaluation: {contrasts: [[noise, it/nose]]}\n", "it.yaml has no arm 'nose'"),
        ("evaluation: {checkpoints: [5]}\n", "step 5 comes after the last, 4"),
        ("evaluation: {contrasts: [[noise, noise]]}\n", "compares an arm with itself"),
        (
            "evaluation: {contrasts: [[noise, clean], [clean, noise]]}\n",
            "got ['noise', 'clean'], which compares an arm with the other both ways",
        ),
        (
            "places: {node: {evaluation: {contrasts: [[noise, nose]]}}}\n",
            "places.node.evaluation.contrasts: 'nose' is no arm of it. Did you mean 'noise'?",
        ),
        (
            "places: {node: {evaluation: {checkpoints: [1]}}}\n",
            "places.node.evaluation.checkpoints: a study's are the same at every place",
        ),
        ("evaluation: {margin: 0}\n", "margin: got 0; it should be a share between 0 and 1"),
        ("evaluation: {margin: 2}\n", "margin: got 2; it should be a share between 0 and 1"),
        ("evaluation: {under: [linear, a/linear.yaml]}\n", "several are called 'linear'"),
        ("evaluation: {under: [call.yaml], draws: 2}\n", "evaluation.under: "),
        (
            "places: {node: {evaluation: {under: [call.yaml, rmsnorm]}}}\n",
            "places.node.evaluation.under: rmsnorm and ",
        ),
        ("evaluation: {under: [back.yaml]}\n", "would be clean"),
        ("evaluation: {under: [qerl]}\n", "evaluation.under: got 'qerl'"),
        ("trainer: {data.seed: 1}\n", "data.seed: every run has its own, from `seeds`"),
        ("trainer: {lr: 1}\n", "got the key 'lr'; it should be a path in verl's configuration"),
        ("places: {node: {nodes: 2}}\n", "nodes: got 2 with launch: local; use launch: ray"),
        ("places: {slurm: {nodes: 2}}\n", "needs a Ray cluster"),
        ("model: {size: 1.5/b}\n", "got '1.5/b'; a name is letters"),
    ],
)
def test_what_cannot_be_is_refused_in_words(write: Any, more: str, words: str) -> None:
    path = write(more)
    path.with_name("call.yaml").write_text("preset: linear\nresample: call\n")
    path.with_name("back.yaml").write_text("preset: linear\ndirection: backward\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert words in str(caught.value) and "it.yaml: " in str(caught.value)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ("linaer", "arms.noise.noise: got 'linaer'; it should be a preset"),
        ("{spec: none.yaml}", "none.yaml: can't be read"),
        ("{preset: linear, seed: 4}", "seed: it is the training seed"),
        ("{preset: linear, aqn: {seed: 4}}", "seed: it is the training seed"),
        ("{preset: linear, scal: 1}", "unknown key 'scal'. Did you mean 'scale'?"),
        ("{preset: linear, aqn: {total_steps: 60}}", "its schedule has 60 steps and the study 4"),
        ("{preset: linear, aqn: {stages: 9}}", "4 steps do not hold 9 stages"),
    ],
)
def test_an_arms_noise_is_refused_in_words(write: Any, noise: str, words: str) -> None:
    study = STUDY.replace("{spec: spec.yaml, resample: call}", noise)
    with pytest.raises(ConfigError) as caught:
        read(write(study=study))
    assert words in str(caught.value)


def test_bases_are_found_and_none_is_its_own(write: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is its own base, by it\.yaml -> base\.yaml"):
        read(write(base="base: it.yaml\n"))
    with pytest.raises(ConfigError, match=r"none\.yaml: can't be read"):
        read(write(study="base: none.yaml\n"))
    for change in ("steps", "arms.clean.noise=linear", "color=red"):
        with pytest.raises(ConfigError, match="it should be KEY=VALUE"):
            read(write(), [change])
    with pytest.raises(ConfigError, match=r"--seed 7: the study has 0, 3"):
        resolve(read(write()), "clean", 7)
    with pytest.raises(ConfigError, match="--where: 'nod' is no place"):
        resolve(read(write()), "clean", 0, "nod")


def test_a_key_that_verl_does_not_have_is_refused(write: Any) -> None:
    pytest.importorskip("verl")
    from hetero_plugin.study.check import check

    found = resolve(read(write("trainer: {data.train_batch_sise: 8}\n")), "clean", 0)
    with pytest.raises(ConfigError, match=r"does not take a setting: .*train_batch_sise"):
        check(found)


def test_batches_that_verl_cannot_divide_are_refused() -> None:
    pytest.importorskip("verl")
    from hetero_plugin.study.check import check

    change = "trainer.actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=3"
    found = resolve(read(RECIPES / "E5.yaml", [change]), "call", 0)
    with pytest.raises(ConfigError, match=r"ppo_mini_batch_size x .* is 160, which .* = 24 does"):
        check(found)


def test_a_run_without_gpus_says_so_before_it_starts(tmp_path: Path) -> None:
    import torch

    if torch.cuda.device_count() >= 8:
        pytest.skip("this machine has them")
    result = CliRunner().invoke(
        app, ["study", "run", str(RECIPES / "E5.yaml"), "--set", f"output={tmp_path / 'runs'}"]
    )
    assert result.exit_code == 2 and not (tmp_path / "runs").exists()
    assert "needs 8 GPUs here and this machine has" in result.stderr
    result = CliRunner().invoke(app, ["study", "run", str(RECIPES / "E5.yaml"), "--where", "slurm"])
    assert result.exit_code == 2 and "not started from here" in result.stderr


def test_list_and_dry_run() -> None:
    result = CliRunner().invoke(app, ["study", "list", str(RECIPES)])
    assert result.exit_code == 0 and "E7.yaml (7b)" in result.stdout
    pytest.importorskip("verl")
    words = ["study", "dry-run", str(RECIPES / "robustness.yaml"), "--arm", "E5b", "--seed", "2"]
    result = CliRunner().invoke(app, [*words, "--json"])
    [one] = json.loads(result.stdout)
    assert one["run"] == "robustness/1.5b/E5b/seed-2" and "\n" not in one["command"]
    assert one["noise"]["seed"] == 2 and one["checked"]["checkpoints"] == "after steps 58, 116"
    assert sum("model_merger" in line for line in one["then"]) == 2
    assert sum("--levels 0,0.05,0.1" in line for line in one["then"]) == 2
    assert all("--noise-seeds 2" in line for line in one["then"] if " eval " in line)
    lines = CliRunner().invoke(app, words).stdout.splitlines()
    assert one["command"] in lines and all(line[:1] in "#" or "verl" in line for line in lines)


class Config(dict[str, Any]):
    """As much of a configuration as the checks of a node read."""

    __getattr__ = dict.__getitem__


def configuration(**model: Any) -> Any:
    rollout = Config(gpu_memory_utilization=0.8, tensor_model_parallel_size=1)
    return Config(actor_rollout_ref=Config(model=Config(model), rollout=rollout))


def test_what_a_node_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(node, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"verl sets by itself, and flash-attn is not installed"):
        node.check_attention(configuration())
    node.check_attention(configuration(override_config={"attn_implementation": "sdpa"}))
    with pytest.raises(ConfigError, match="verl is not installed here"):
        node.check_plugin()
    monkeypatch.setattr(node, "find_spec", lambda name: name)
    node.check_attention(configuration())
    monkeypatch.setattr(node, "entry_points", lambda group: ())
    with pytest.raises(ConfigError, match=r"hetero_noise of verl\.plugins is missing"):
        node.check_plugin()
    assert "2.9 GiB a GPU" in node.check_memory(configuration(), 1_540_000_000, 8, 80e9)
    with pytest.raises(ConfigError, match=r"memory: .* Use more GPUs"):
        node.check_memory(configuration(), 70_000_000_000, 8, 80e9)
    with pytest.raises(ConfigError, match=r"checkpoints, and \d+ GiB are free"):
        node.check_disk(tmp_path / "a" / "b", 10**15, 2)


@pytest.mark.parametrize(("name", "billions"), [("E5", 1.5437), ("E7", 7.6156)], ids=["1.5b", "7b"])
def test_parameters_are_counted_from_the_shape(name: str, billions: float) -> None:
    """The models' own numbers of parameters; biases and norms, left out, are under a thousandth."""
    shape = read(RECIPES / f"{name}.yaml").model.config
    found = node.parameters_of(shape)
    assert found is not None and found / 1e9 == pytest.approx(billions, rel=1e-3)
    assert node.parameters_of({"hidden_size": 3}) is None and node.parameters_of(None) is None


METRICS: list[dict[str, Any]] = [
    {"step": 0, "data": {"val-core/gsm8k/acc/mean@1": 0.25}},
    {
        "step": 1,
        "data": {
            "critic/rewards/mean": 0.5,
            "hetero/sigma": 0.0,
            "hetero/actor/realised_error/linear": 0.04,
            "hetero/rollout_actor_logprob_gap/mean": 0.01,
            "timing_s/step": 3.0,
        },
    },
    {
        "step": 2,
        "data": {
            "critic/rewards/mean": 0.75,
            "hetero/sigma": 0.05,
            "hetero/actor/realised_error/linear": 0.06,
            "val-core/gsm8k/acc/mean@1": 0.5,
            "hetero/val_noisy/gsm8k/acc/mean@1": 0.375,
        },
    },
]


def pretend(found: Resolved, monkeypatch: pytest.MonkeyPatch, *, fails: bool = False) -> None:
    """In verl's place a program that leaves what a run of two steps leaves."""
    records = [{"process": "actor rank 0", "record": {"seen": 3, "of": 3}}]
    attestation = {"passed": True, "fingerprint": "f", "records": records}
    rows = "".join(json.dumps(row) + "\n" for row in METRICS)
    lines = [
        "import pathlib, json",
        f"here = pathlib.Path({str(found.folder)!r})",
        "(here / 'checkpoints' / 'global_step_2' / 'actor').mkdir(parents=True, exist_ok=True)",
        f"(here / 'metrics.jsonl').write_text({rows!r})",
        f"record = {attestation!r}",
        "for when, step in (('start', 0), ('end', 2)):",
        "    path = here / 'checkpoints' / f'attestation-{when}-step{step}.json'",
        "    if path.exists():  # an earlier one keeps its place",
        "        path = path.with_stem(path.stem + '-2')",
        "    path.write_text(json.dumps({**record, 'when': when, 'step': step}))",
        *(["raise SystemExit(3)"] if fails else []),
    ]
    program = [sys.executable, "-c", "\n".join(lines)]
    monkeypatch.setattr("hetero_plugin.verl.launch.command", lambda _: program)


class Watcher:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.said: list[str] = []

    def planned(self, order: tuple[Stage, ...], side_by_side: int) -> None:
        self.order = [stage.name for stage in order]

    def began(self, stage: Stage) -> None:
        self.events.append(("began", stage.kind))

    def progressed(self, stage: Stage, share: float, message: str) -> None:
        self.said.append(message)

    def ended(self, stage: Stage, record: dict[str, Any], *, reused: bool) -> None:
        self.events.append(("reused" if reused else "ended", stage.kind))

    def failed(self, stage: Stage, error: BaseException) -> None:
        self.events.append(("failed", stage.kind))


def _leaves(name: str) -> Any:
    """In the place of merging or evaluating: a stage that writes one file."""

    def act(found: Resolved, *rest: Any) -> stages.Outcome:
        path = found.folder / f"{name}.txt"
        path.write_text(name)
        return stages.Outcome({"words": name}, (path,))

    return act


@pytest.fixture
def small(write: Any, monkeypatch: pytest.MonkeyPatch) -> Resolved:
    """An arm of two steps whose checks of this machine pass."""
    monkeypatch.setattr(run, "check_here", lambda _: {})
    monkeypatch.setattr(run, "check", lambda _: {})
    for name in ("merge", "evaluate"):
        monkeypatch.setattr(stages, name, _leaves(name))
    return resolve(read(write("steps: 2\n")), "noise", 0)


def test_a_run_ends_with_its_summary(small: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(small, monkeypatch)
    watch = Watcher()
    assert run.status(small) == "not begun"
    [data] = run.execute([small], watch)
    assert watch.order == [
        "train noise/seed-0",
        "merge noise/seed-0/step-2",
        "evaluate noise/seed-0/step-2",
    ]
    assert data == json.loads((small.folder / summary.NAME).read_text())
    assert data["asked"]["fingerprint"] == small.noise.fingerprint  # type: ignore[union-attr]
    assert data["accuracy"] == {
        "clean": {"gsm8k": {"0": 0.25, "2": 0.5}},
        "noisy": {"gsm8k": {"2": 0.375}},
    }
    assert data["realised"] == {"actor": {"linear": pytest.approx(0.05)}}
    assert data["sigma"] == {"1": 0.0, "2": 0.05} and data["gap"]["mean"] == {"1": 0.01}
    assert [(one["when"], one["passed"]) for one in data["attested"]] == [
        ("end", True),
        ("start", True),
    ]
    log = (small.folder / "train.log").read_text()
    assert "[hetero_noise] summary: accuracy clean, gsm8k: 0: 25.00 %, 2: 50.00 %" in log
    assert "summary: attested at the end, step 2: actor rank 0 3/3 sites" in log
    assert "step 2 of 2, reward 0.750" in watch.said
    assert run.status(small) == "finished"
    monkeypatch.setattr("hetero_plugin.verl.launch.command", lambda _: ["false"])
    again = Watcher()
    run.execute([small], again)
    assert again.events == [("reused", kind) for kind in ("train", "merge", "evaluate")]
    # What is damaged is made again, and not what does not depend on it.
    (small.folder / "evaluate.txt").write_text("damaged")
    mended = Watcher()
    run.execute([small], mended)
    assert [kind for what, kind in mended.events if what == "ended"] == ["evaluate"]


def test_a_run_that_failed_goes_on(small: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(small, monkeypatch, fails=True)
    watch = Watcher()
    with pytest.raises(LaunchError, match="exit 3"):
        run.execute([small], watch)
    assert watch.events == [("began", "train"), ("failed", "train")]
    assert run.status(small).startswith("step 2 of 2, last checkpoint: none")
    pretend(small, monkeypatch)
    run.execute([small], Watcher())
    assert run.status(small) == "finished"
    assert (small.folder / "metrics-1.jsonl").is_file()


@pytest.mark.parametrize("full", ["run.json", "train.done.json", "summary.json"])
def test_a_full_disk_is_told_and_nothing_is_lost(
    small: Resolved, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    """The file that can't be written is not half there, and the same command goes on."""
    from hetero_plugin.study import record

    def write(path: Path, text: str) -> None:
        if path.name == full:
            raise OSError(errno.ENOSPC, "No space left on device")  # as a write says it: no name
        files.write_text(path, text)

    pretend(small, monkeypatch)
    with monkeypatch.context() as patch:
        for module in (run, record, summary):
            patch.setattr(module, "write_text", write)
        words = ["study", "run", "it.yaml", "--arm", "noise", "--seed", "0", "--set", "steps=2"]
        result = CliRunner().invoke(app, words)
    assert result.exit_code == 1 and "No space left on device" in result.stderr
    assert "What was finished is kept; the same command goes on" in result.stderr
    assert not (small.folder / full).exists()
    run.execute([small], Watcher())
    assert run.status(small) == "finished"


def test_another_setting_is_refused_by_its_name(small: Resolved, tmp_path: Path) -> None:
    run.claim(small)
    other = read(tmp_path / "it.yaml", ["trainer.data.train_batch_size=4"])
    with pytest.raises(ConfigError, match=r"settings\.data\.train_batch_size: 8 there, 4 here"):
        run.claim(resolve(other, "noise", 0))
    assert run.claim(small)
    strange = resolve(read(tmp_path / "it.yaml"), "clean", 0)
    strange.folder.mkdir(parents=True)
    (strange.folder / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"holds notes\.txt and no run\.json"):
        run.claim(strange)


def test_a_studys_arm_becomes_a_run_on_a_cpu(tmp_path: Path) -> None:
    changes = [f"places.cpu-miniature.model.path={tmp_path}", f"output={tmp_path / 'runs'}"]
    found = resolve(read(RECIPES / "E2.yaml", changes), "later-script", 4, "cpu-miniature")
    made = found.run()
    assert isinstance(made, MiniatureRun)
    assert (made.steps, made.batch, made.samples, made.seed) == (2, 4, 5, 4)
    assert made.learning_rate == 1e-6 and made.noise == found.noise
    assert "actor_rollout_ref.actor.use_kl_loss=true" in made.overrides
    change = "places.cpu-miniature.trainer.actor_rollout_ref.actor.ppo_mini_batch_size=4"
    study = read(RECIPES / "E2.yaml", [*changes, change])
    again = resolve(study, "later-script", 4, "cpu-miniature").run()
    assert isinstance(again, MiniatureRun) and again.mini_batch == 4
    assert not any(word.startswith("actor_rollout_ref.actor.strategy") for word in made.overrides)


def test_a_cpu_place_of_two_ranks(write: Any) -> None:
    """What `dry-run` checks of it is composed by the installed verl."""
    pytest.importorskip("verl")
    more = (
        "places: {small: {device: cpu, gpus: 2, trainer: {data.train_batch_size: 4, "
        "actor_rollout_ref.actor.ppo_mini_batch_size: 2, "
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu: %d, "
        "actor_rollout_ref.rollout.tensor_model_parallel_size: %d}}}\n"
    )
    found = resolve(read(write(more % (4, 2))), "noise", 0, "small")
    made = found.run()
    assert isinstance(made, MiniatureRun) and (made.gpus, made.tensor_parallel) == (2, 2)
    assert not any("tensor_model_parallel" in word for word in made.overrides)
    words = check.facts(found)["command"]
    assert "trainer.n_gpus_per_node=2 " in words and "ray_init.num_gpus=2 " in words
    assert "tensor_model_parallel_size=2 " in words
    with pytest.raises(ConfigError, match="tensor_parallel=4 does not divide gpus=2"):
        resolve(read(write(more % (4, 4))), "noise", 0, "small").run()
    with pytest.raises(ConfigError, match=r"micro_batch=16 does not divide .* = 8 sequences"):
        resolve(read(write(more % (16, 2))), "noise", 0, "small").run()
    with pytest.raises(ConfigError, match="launch: got ray with device: cpu"):
        read(write("places: {small: {device: cpu, gpus: 2, launch: ray}}\n"))


def test_options_and_batches_of_a_cpu_run(write: Any) -> None:
    more = "places: {small: {device: cpu, gpus: 1, trainer: {data.train_batch_size: 4, %s}}}\n"
    mini = "actor_rollout_ref.actor.ppo_mini_batch_size"
    study = STUDY.replace("resample: call}", "resample: call}, options: {actor_aqn: true}")
    found = resolve(read(write(more % f"{mini}: 2", study=study)), "noise", 0, "small").run()
    assert isinstance(found, MiniatureRun)
    assert "+actor_rollout_ref.rollout.custom.hetero_run.actor_aqn=true" in found.overrides
    bad = resolve(read(write(more % f"{mini}: 3")), "noise", 0, "small")
    with pytest.raises(ConfigError, match=r"at small: .*mini_batch=3 does not divide batch=4"):
        bad.run()


def test_a_run_has_one_process(small: Resolved, monkeypatch: pytest.MonkeyPatch) -> None:
    from hetero_plugin.evaluation.files import locked

    pretend(small, monkeypatch)
    with (
        locked(small.folder / run.RECORD),
        pytest.raises(ConfigError, match=r"run\.json.* leave this arm and seed to it"),
    ):
        run.execute([small], Watcher())
    run.execute([small], Watcher())
    assert small.run().resumes
    fresh = read(small.folder.parents[4] / "it.yaml", ["trainer.trainer.resume_mode=disable"])
    assert not resolve(fresh, "noise", 0).run().resumes


def test_runs_are_in_the_order_of_seeds(write: Any) -> None:
    found = [(one.seed, one.arm) for one in resolve_all(read(write()))]
    assert found == [(0, "clean"), (0, "noise"), (3, "clean"), (3, "noise")]
    again = resolve_all(read(write()), ("noise", "noise"), (3, 3))
    assert [(one.seed, one.arm) for one in again] == [(3, "noise")], "asked for twice, run once"


def test_status_tells_what_is_not_this_run_and_what_is_damaged(
    small: Resolved, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(small, monkeypatch)
    run.execute([small], Watcher())
    other = read(tmp_path / "it.yaml", ["trainer.data.train_batch_size=4"])
    said = "holds a run of other settings (settings.data.train_batch_size: 8 there, 4 here)"
    assert run.status(resolve(other, "noise", 0)) == said
    merged = small.folder / "merge-step2.done.json"
    text = merged.read_text()
    merged.write_text(text[:40])
    assert run.status(small) == "2 of 3 stages, next: merge noise/seed-0/step-2"
    for bad in (text[:40], "[]", json.dumps({**json.loads(text), "outputs": []}),
                json.dumps({**json.loads(text), "seconds": None})):  # fmt: skip
        merged.write_text(bad)
        watch = Watcher()
        run.execute([small], watch)
        assert ("ended", "merge") in watch.events and ("reused", "train") in watch.events
    (small.folder / run.RECORD).write_text("[]")
    with pytest.raises(ConfigError, match=r"run\.json: can't be read as a JSON object"):
        run.claim(small)
    assert "run.json: can't be read as a JSON object" in run.status(small)
    (small.folder / run.RECORD).write_text(json.dumps(run.identity(small)))
    for stage in run.chain(small):
        stage.record.unlink()
    (small.folder / "metrics.jsonl").write_text('{"st\n')
    assert run.status(small).startswith("not known: ")
    assert "metrics.jsonl, line 1: not a line of metrics" in run.status(small)


MAKES = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
(out / "model").mkdir(parents=True)
(out / "model" / "weights").write_text(sys.argv[sys.argv.index("--size") + 1])
print("@progress " + json.dumps([0.5, "half"]))
"""


def test_what_a_place_starts_from_is_prepared_once(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write()
    (tmp_path / "make.py").write_text(MAKES)
    prepare = "{script: make.py, folder: made, options: {size: %d}}"
    more = "places: {node: {prepare: %s, model: {path: made/model, size: small}}}\n"
    path.write_text(path.read_text() + more % (prepare % 3))
    found = resolve(read(path), "clean", 0)
    assert found.settings["actor_rollout_ref.model.path"] == str(tmp_path / "made" / "model")
    monkeypatch.setattr(run, "check", lambda _: {})
    monkeypatch.setattr(run, "check_here", lambda _: {})
    for name in ("train", "merge", "evaluate"):
        monkeypatch.setattr(stages, name, _leaves(name))
    monkeypatch.setattr(run, "_summary", lambda _: {})
    first, again = Watcher(), Watcher()
    run.execute([found], first)
    assert first.events[:2] == [("began", "prepare"), ("ended", "prepare")]
    assert (tmp_path / "made" / "model" / "weights").read_text() == "3" and "half" in first.said
    run.execute([found], again)
    assert {what for what, _ in again.events} == {"reused"}
    path.write_text(STUDY + more % (prepare % 4))
    with pytest.raises(ConfigError, match=r"prepared otherwise \(options\.size: 3 there, 4 here"):
        run.execute([resolve(read(path), "clean", 0)], Watcher())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    path.write_text(STUDY + (more % (prepare % 3)).replace("folder: made", "folder: other"))
    with pytest.raises(ConfigError, match=r"holds notes\.txt and no asked\.json"):
        run.execute([resolve(read(path), "clean", 0)], Watcher())


@pytest.mark.parametrize("lanes", [1, 2])
def test_runs_go_side_by_side_and_the_first_failure_ends_the_study(
    write: Any, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    together = threading.Barrier(lanes, timeout=60)
    evaluated = threading.Semaphore(0)

    def train(found: Resolved, report: Any) -> stages.Outcome:
        if found.seed == 0:
            together.wait()  # as many at once as are asked for
            return _leaves("train")(found)
        for _ in range(2):
            assert evaluated.acquire(timeout=60)
        raise LaunchError("broke")

    def evaluate(found: Resolved, *rest: Any) -> stages.Outcome:
        made = _leaves("evaluate")(found)
        evaluated.release()
        return made

    monkeypatch.setattr(run, "check", lambda _: {})
    monkeypatch.setattr(run, "check_here", lambda _: {})
    monkeypatch.setattr(stages, "train", train)
    monkeypatch.setattr(stages, "merge", _leaves("merge"))
    monkeypatch.setattr(stages, "evaluate", evaluate)
    study = read(write(f"seeds: [0, 3]\nplaces: {{node: {{side_by_side: {lanes}}}}}\n"))
    runs = [*resolve_all(study, seeds=[0]), resolve(study, "clean", 3)]
    with pytest.raises(LaunchError, match="broke"):
        run.execute(runs, Watcher())
    assert all((one.folder / "evaluate.txt").is_file() for one in runs[:2])
    assert not (runs[2].folder / "merge.txt").exists()


def test_an_interrupt_after_a_failure_ends_what_is_still_under_way(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, heard, told = threading.Event(), list[str](), list[bool]()

    def train(found: Resolved, report: Any) -> stages.Outcome:
        if found.arm == "noise":
            broken.set()
            raise LaunchError("broke")
        assert broken.wait(60)
        for _ in range(1200):  # a run that would go on for a minute
            told.append(("failed", "train") in watch.events)
            if sum(told) == 20:  # a second after the failure was told, once
                os.kill(os.getpid(), signal.SIGINT)
            try:
                group.pause(0.05)
            except KeyboardInterrupt:
                heard.append(found.arm)
                raise
        raise AssertionError("nobody stopped it")

    monkeypatch.setattr(run, "check", lambda _: {})
    monkeypatch.setattr(run, "check_here", lambda _: {})
    monkeypatch.setattr(stages, "train", train)
    study = read(write("seeds: [0]\nplaces: {node: {side_by_side: 2}}\n"))
    watch = Watcher()
    # A process that a script started with & ignores interrupts, and this test is of them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run.execute(resolve_all(study), watch)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == ["clean"] and ("failed", "train") in watch.events
