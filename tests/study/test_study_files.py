"""Every study of recipes/studies against a table of the arguments of the study that it repeats.

The table is written out once more here, from that study's own account, and compared with what the
installed verl makes of each command line: a setting that is lost on the way fails. 30 s.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import aqn_sites, counts, select, sites_from_config
from hetero_plugin.study.check import check, compose, shape_of
from hetero_plugin.study.read import read, studies
from hetero_plugin.study.resolve import Resolved, resolve, resolve_all

FOLDER = Path(__file__).parents[2] / "recipes" / "studies"
# What is made for a laptop repeats no study.
OWN = (
    "demo",
    "demo-full",
    "formats-miniature",
    "matrix",
    "matrix-all",
    "remedies-miniature",
)
# What asks questions of this package's own on a node, or has no row of settings in the table below.
MORE = ("dapo-formats", "dapo-lora", "remedies")
FILES = [path for path in studies(FOLDER) if path.stem not in (*OWN, *MORE)]

# What the study gives as its common setting, by verl's paths.
COMMON: dict[str, Any] = {
    "algorithm.adv_estimator": "grpo",
    "algorithm.use_kl_in_reward": False,
    "data.max_prompt_length": 1024,
    "data.filter_overlong_prompts": True,
    "data.truncation": "error",
    "actor_rollout_ref.model.use_remove_padding": True,
    "actor_rollout_ref.model.enable_gradient_checkpointing": True,
    "actor_rollout_ref.actor.strategy": "fsdp",
    "actor_rollout_ref.actor.use_kl_loss": True,
    "actor_rollout_ref.actor.kl_loss_coef": 0.001,
    "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
    "actor_rollout_ref.actor.entropy_coeff": 0,
    "actor_rollout_ref.actor.fsdp_config.param_offload": False,
    "actor_rollout_ref.actor.fsdp_config.optimizer_offload": False,
    "actor_rollout_ref.ref.fsdp_config.param_offload": True,
    "actor_rollout_ref.rollout.name": "vllm",
    "actor_rollout_ref.rollout.n": 5,
    "actor_rollout_ref.rollout.enable_chunked_prefill": False,
    "actor_rollout_ref.rollout.enforce_eager": False,
    "trainer.n_gpus_per_node": 8,
    "trainer.nnodes": 1,
    "trainer.test_freq": 20,
}
SIZES: dict[str, dict[str, Any]] = {
    "1.5b": {
        "actor_rollout_ref.model.path": "Qwen/Qwen2.5-1.5B-Instruct",
        "data.train_batch_size": 128,
        "data.max_response_length": 1024,
        "actor_rollout_ref.actor.optim.lr": 5e-7,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 32,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 4,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 1,
        "actor_rollout_ref.rollout.gpu_memory_utilization": 0.8,
        "trainer.total_training_steps": 116,
        "trainer.total_epochs": 2,
    },
    "7b": {
        "actor_rollout_ref.model.path": "Qwen/Qwen2.5-7B-Instruct",
        "data.train_batch_size": 64,
        "data.max_response_length": 512,
        "actor_rollout_ref.actor.optim.lr": 1e-7,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2,
        "actor_rollout_ref.rollout.tensor_model_parallel_size": 2,
        "actor_rollout_ref.rollout.gpu_memory_utilization": 0.7,
        "trainer.total_training_steps": 232,
        "trainer.total_epochs": 2,
    },
}
OTHERWISE: dict[tuple[str, str], dict[str, Any]] = {
    **{
        ("E2", arm): {"trainer.total_training_steps": 58, "trainer.total_epochs": 1}
        for arm in ("call", "step")
    },
    ("E2", "later-script"): {
        "trainer.total_training_steps": 58,
        "trainer.total_epochs": 1,
        "actor_rollout_ref.actor.optim.lr": 1e-6,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu": 2,
    },
}

# A run of each: error, scale, direction, phase, sites by kind, and AQN's σ at steps.
LINEAR = {"linear": 196, "lm_head": 1}
NORMS = {"norm": 57}
ALL_OPS = {**LINEAR, **NORMS, "activation": 28, "attention": 28}
GAUSS = "relative_gaussian"
GLOBAL = {0: 0.0, 11: 0.0, 12: 0.05, 104: 0.0005 * 100 ** (1 / 8), 115: 0.0005}


def epochs(boundary: float, start: float = 0.05, end: float = 0.0005, epoch: int = 58) -> Any:
    """σ of five stages an epoch after a warm-up: at the edges of both epochs."""
    warm = math.ceil(epoch / 6) - 1  # still in the warm-up
    return {
        0: 0.0,
        warm: 0.0,
        warm + 1: start,
        epoch - 1: boundary,
        epoch: 0.0,
        epoch + warm: 0.0,
        epoch + warm + 1: boundary,
        2 * epoch - 1: end,
    }


TEXT, CODE = epochs(0.01), epochs(math.sqrt(0.05 * 0.0005))
BOTH = {"text": TEXT, "code": CODE}
ROLLOUT = {"direction": "forward", "phase": "rollout"}
Row = tuple[dict[str, Any], dict[str, int], dict[int, float] | None]


def row(sites: dict[str, int], scale: float, sigma: Any = None, **rule: Any) -> Row:
    return {"error": GAUSS, "scale": scale, **rule}, sites, sigma


TABLE: dict[tuple[str, str], Row | None] = {("baseline", "clean"): None, ("E7", "E7a"): None}
for process in ("call", "step"):
    TABLE |= {
        ("E2", process): row(NORMS, 1e-5, **ROLLOUT),
        ("E3", process): row(LINEAR, 1e-5, point="input", **ROLLOUT),
        ("E3b", process): row({**LINEAR, **NORMS}, 1e-5, **ROLLOUT),
        ("E4", process): row(LINEAR, 1e-4, point="input", **ROLLOUT),
        ("E4b", process): row(LINEAR, 1e-4),
        ("E4c", process): row(LINEAR, 1e-3),
        ("E4d", process): row(LINEAR, 1e-2),
        ("E5", process): row(LINEAR, 5e-2),
        ("E5a", process): row(LINEAR, 5e-2, GLOBAL),
        ("E5c", process): row(ALL_OPS, 5e-2),
        ("E7", f"E7b-{process}"): row(LINEAR, 5e-2),
        ("aqn-low-sigma", process): row(LINEAR, 5e-2, epochs(math.sqrt(1e-7), 0.01, 1e-5)),
        ("rin-variable", process): row(LINEAR, 5e-2, epochs(0.001, 0.01, 0.0001)),
        ("rin-targeted", f"{process}-0.01"): row(LINEAR, 5e-2, epochs(0.001, 0.01, 0.0001)),
        ("rin-targeted", f"{process}-0.05"): row(LINEAR, 5e-2, epochs(0.005)),
        ("sigma-pair", f"{process}-0.05"): row(LINEAR, 1e-4, GLOBAL, point="input", **ROLLOUT),
        ("sigma-pair", f"{process}-0.025"): row(
            LINEAR, 1e-4, {0: 0.0, 12: 0.025, 115: 0.0005}, point="input", **ROLLOUT
        ),
    }
    for name, sigma in BOTH.items():
        seven = epochs(0.01 if name == "text" else 0.005, epoch=116)
        TABLE |= {
            ("E5b", f"{process}-{name}"): row(LINEAR, 5e-2, sigma),
            ("E5d", f"{process}-{name}"): row(ALL_OPS, 5e-2, sigma),
            ("E7", f"E7c-{process}-{name}"): row(LINEAR, 5e-2, seven),
            ("E8c", f"{process}-{name}"): row(LINEAR, 5e-2, sigma, direction="forward"),
            ("E8d", f"{process}-{name}"): row(LINEAR, 5e-2, sigma, direction="backward"),
        }
TABLE[("E2", "later-script")] = TABLE[("E2", "call")]
TABLE |= {
    ("robustness", "clean"): None,
    ("robustness", "E5"): row(LINEAR, 5e-2),
    ("robustness", "E5a"): row(LINEAR, 5e-2, GLOBAL),
    ("robustness", "E5b"): row(LINEAR, 5e-2, TEXT),
}
for scale in ("1e-3", "1e-2", "5e-2"):
    TABLE[("E6-bias", scale)] = row(LINEAR, float(scale), error="systematic_bias", relative=True)
for scale in ("1e-3", "1e-2", "1e-1"):
    TABLE[("E6-truncation", scale)] = row(LINEAR, float(scale), error="truncation")

# Final accuracy that was reported, in percent.
REPORTED: dict[tuple[str, str], Any] = {
    ("baseline", "clean"): 76.88,
    ("E2", "call"): 74.75,
    ("E3", "call"): 76.35,
    ("E4b", "call"): 77.33,
    ("E4c", "call"): 77.18,
    ("E5", "call"): 68.16,
    ("E5a", "call"): 68.76,
    ("E5b", "call-code"): 70.58,
    ("E5c", "call"): 69.07,
    ("E5d", "call-code"): 70.20,
    ("E7", "E7a"): 90.67,
    ("E7", "E7b-call"): 88.70,
    ("E7", "E7c-call-code"): 89.50,
    ("E8c", "call-code"): (68.9, 69.4),
    ("aqn-low-sigma", "call"): 70.27,
    ("rin-targeted", "call-0.01"): 70.58,
    ("rin-targeted", "call-0.05"): 70.81,
    ("rin-variable", "call"): 71.19,
}


@cache
def runs() -> dict[tuple[str, str], Resolved]:
    """Every arm with the second training seed, which is no setting's default."""
    studied = map(read, FILES)
    found = [run for study in studied for run in resolve_all(study, seeds=study.seeds[1:2])]
    return {(run.study.name, run.arm): run for run in found}


def test_every_experiment_has_its_file_and_every_arm_its_row() -> None:
    assert set(runs()) == set(TABLE)
    assert [path.stem for path in FILES] == sorted({name for name, _ in TABLE})
    for path in FILES:
        assert read(path).name == path.stem


@pytest.mark.slow
@pytest.mark.parametrize("key", TABLE, ids="/".join)
def test_an_arm_has_the_studys_arguments(key: tuple[str, str]) -> None:
    """Through verl's own composition: every key is one of its schema, or Hydra would refuse it."""
    from omegaconf import OmegaConf

    run = runs()[key]
    config = compose(run)
    wanted = {**COMMON, **SIZES[run.size], **OTHERWISE.get(key, {})}
    assert {name: OmegaConf.select(config, name) for name in wanted} == wanted
    for name in (
        "data.seed",
        "actor_rollout_ref.actor.data_loader_seed",
        "actor_rollout_ref.actor.fsdp_config.seed",
        "actor_rollout_ref.ref.fsdp_config.seed",
        "actor_rollout_ref.rollout.seed",
    ):
        assert OmegaConf.select(config, name) == 1, name
    found = check(run, config)
    assert found["verl"].startswith("every key") and found["folder"] == str(run.folder)


@pytest.mark.parametrize("key", TABLE, ids="/".join)
def test_an_arm_has_the_studys_error(key: tuple[str, str]) -> None:
    run, wanted = runs()[key], TABLE[key]
    spec = run.noise
    if wanted is None:
        assert spec is None and "quantization" not in str(run.words())
        return
    assert spec is not None
    rule, kinds, sigma = wanted
    shape = shape_of(run)
    assert shape is not None
    sites = sites_from_config(shape)
    assert counts(select(spec, sites)) == kinds
    assert spec.seed == 1
    for given in spec.rules:
        point = rule.get("point")
        if key[0] == "E3b":  # a norm's error is on its output, a layer's on its input
            point = "input" if given.targets == ("linear",) else "output"
        default = {"direction": "both", "phase": "both", "point": point or "output"}
        for name, value in {**default, **rule, **({"point": point} if point else {})}.items():
            assert getattr(given, name) == value, name
        assert given.rounding == "stochastic"
    process = "step" if "step" in key[1] else "call"
    if not key[0].startswith("E6"):
        assert spec.resample == process
    if sigma is None:
        assert spec.aqn is None
        return
    assert spec.aqn is not None and spec.aqn.seed == 1
    assert {step: spec.aqn.sigma(step) for step in sigma} == pytest.approx(sigma, rel=1e-6)
    norms = aqn_sites(spec, sites)
    assert {site.layer for site in norms} == (
        {14, 15, 16, 17} if key[0] == "rin-targeted" else {*range(28), None}
    )
    factors = {spec.aqn.factor(layer) for layer in range(28)}
    assert factors == ({1.0, 1.2, 1.5} if key[0] == "rin-variable" else {1.0})


def test_the_reported_numbers_are_the_studys() -> None:
    found = {
        key: run.study.arm(run.arm).origin.accuracy  # type: ignore[union-attr]
        for key, run in runs().items()
        if run.study.arm(run.arm).origin is not None
        and run.study.arm(run.arm).origin.accuracy is not None  # type: ignore[union-attr]
    }
    assert found == REPORTED


def test_every_study_says_what_it_is_and_what_is_other() -> None:
    for path in FILES:
        study = read(path)
        assert {"validation", "attested", "rounding", "seeds", "resample"} <= set(study.differs)
        assert len(study.seeds) >= 5 and 0.0 in study.evaluation.levels
        assert study.evaluation.contrasts or study.name in ("baseline",)
    robust = read(FOLDER / "robustness.yaml")
    assert robust.checkpoints() == (58, 116) and robust.save_every() == 58
    assert robust.evaluation.levels == (0.0, 0.05, 0.1)


def test_no_two_runs_share_a_folder() -> None:
    found = [run.folder for path in FILES for run in resolve_all(read(path))]
    assert len(set(found)) == len(found) == sum(5 * len(read(path).arms) for path in FILES)
    study = read(FOLDER / "E7.yaml")
    small = resolve(study, "E7a", 0, "cpu-miniature")
    assert "7b" in str(resolve(study, "E7a", 0).folder) and small.size == "miniature"


@pytest.mark.parametrize("name", ["baseline", "E2", "E7", "rin-variable"])
def test_a_study_composes_shrunk_for_a_cpu(name: str) -> None:
    """Two steps of a tiny model: verl takes it, with the KL loss of the study."""
    study = read(FOLDER / f"{name}.yaml")
    arm = next(iter(study.arms))
    run = resolve(study, arm, 0, "cpu-miniature")
    config = compose(run)
    assert config.trainer.device == "cpu" and config.trainer.total_training_steps == 2
    actor = config.actor_rollout_ref.actor
    assert actor.use_kl_loss and actor.strategy == "fsdp2" and actor.ppo_mini_batch_size == 2
    assert config.trainer.default_local_dir == str(run.folder / "checkpoints")


def test_specifications_are_all_used() -> None:
    """A file of recipes/specs that no study names would be a recipe without a setting."""
    used = "".join(path.read_text() for path in FILES)
    for path in (FOLDER.parent / "specs").glob("*.yaml"):
        assert f"../specs/{path.name}" in used or f"specs/{path.stem}" in used, path.name
        NoiseConfig.parse(path)


@pytest.mark.parametrize("name", OWN)
def test_a_study_of_the_miniature_composes(name: str) -> None:
    study = read(FOLDER / f"{name}.yaml")
    for run in resolve_all(study, seeds=study.seeds[:1]):
        found = check(run)
        assert found["verl"].startswith("every key"), run.name
        if run.noise is not None and run.noise.rules:
            assert "not checked" not in found["sites"], run.name
    assert study.evaluation.contrasts and all(one.prepare for one in study.places.values())


@pytest.mark.parametrize("name", MORE)
def test_a_further_study_composes(name: str) -> None:
    study = read(FOLDER / f"{name}.yaml")
    assert len(study.seeds) >= 5 and study.evaluation.contrasts and study.differs
    for run in resolve_all(study, seeds=study.seeds[:1]):
        found = check(run)
        assert found["verl"].startswith("every key"), run.name
        kinds = found.get("sites", "")
        assert run.noise is None or "linear 196" in kinds, (run.name, kinds)
    small = resolve(study, next(iter(study.arms)), 0, "cpu-miniature")
    assert compose(small).trainer.total_training_steps == 2


def test_the_matrix_answers_what_was_asked() -> None:
    main, whole = read(FOLDER / "matrix.yaml"), read(FOLDER / "matrix-all.yaml")
    assert set(main.arms) == {"clean", "noise", "noise-global", "noise-epoch"}
    assert len(main.seeds) >= 5 and main.evaluation.levels == (0.0, 0.02, 0.05, 0.1, 0.2)
    assert main.evaluation.draws == 2
    # The larger one goes on in the main one's folder: its arms are the same runs.
    assert whole.name == main.name
    for arm in main.arms:
        assert resolve(whole, arm, 3).settings == resolve(main, arm, 3).settings
