"""Study files: YAML, each over the base that it names, so that a fact stands in one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.config import PRESETS, ConfigError, NoiseConfig
from hetero_plugin.config.multipliers import beside
from hetero_plugin.config.problems import did_you_mean
from hetero_plugin.config.read import read_json, read_yaml
from hetero_plugin.evaluation.answers.settings import Settings, cases_of
from hetero_plugin.study.schema import Arm, Evaluation, Study

__all__ = ["merged", "noise_of", "read", "studies"]

_SUFFIXES = (".yaml", ".yml", ".json")


def read(path: Path, changes: Iterable[str] = ()) -> Study:
    """The study of a file.

    Args:
        path: of the file; its ``base`` is a path from there.
        changes: ``KEY=VALUE``, such as ``model.path=/models/qwen`` or
            ``trainer.trainer.test_freq=10``; the value is YAML.

    Raises:
        ConfigError: names the file, the key and what would be right.
    """
    data = _with_base(path, ())
    for change in changes:
        data = merged(data, _change(change))
    try:
        study = Study(**data)
        for name in study.arms:
            noise_of(study, name, study.seeds[0])
        _check_evaluation(study.evaluation, "evaluation")
        for name, place in study.places.items():
            if place.evaluation:
                here = study.evaluation.at(place.evaluation)
                _check_evaluation(here, f"places.{name}.evaluation")
        _check_contrasts(study, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return study


def _check_evaluation(wanted: Evaluation, where: str) -> None:
    """What would otherwise be refused once all is trained."""
    for under in wanted.under:
        NoiseConfig.parse(under, where=f"{where}.under")
    settings = Settings(levels=wanted.levels, seed=wanted.seed, draws=wanted.draws)
    try:
        cases_of(
            {under: under for under in wanted.under}, dict.fromkeys(wanted.under, Path()), settings
        )
    except ConfigError as error:
        raise ConfigError(f"{where}.under: {error}") from None


def _check_contrasts(study: Study, folder: Path) -> None:
    """Arms of other studies are there, in a file beside this."""
    for pair in study.evaluation.contrasts:
        for word in pair:
            other, slash, arm = word.partition("/")
            if not slash:
                continue
            arms = _mapping(folder / f"{other}.yaml").get("arms") or {}
            if arm not in arms:
                raise ConfigError(
                    f"evaluation.contrasts: {word!r}: {other}.yaml has no arm {arm!r}."
                    f"{did_you_mean(arm, arms)} It has: {', '.join(arms)}."
                )


def studies(folder: Path) -> list[Path]:
    """Files of a folder that are studies: those with arms. Bases lie in folders below it."""
    return [p for p in sorted(folder.glob("*.yaml")) if "arms" in _mapping(p)]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid over it: mappings key by key, anything else as a whole."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _mapping(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: can't be read: {why}.") from None
    try:
        data = read_json(text) if path.suffix == ".json" else read_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: got {type(data).__name__}; it should be a mapping.")
    return data


def _with_base(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    full = path.resolve()
    if full in above:
        raise ConfigError(f"{path}: is its own base, by {' -> '.join(p.name for p in above)}.")
    data = _mapping(path)
    base = data.pop("base", None)
    data = _located(data, path.parent)
    if base is None:
        return data
    bases = [base] if isinstance(base, str) else base
    if not isinstance(bases, list) or not all(isinstance(one, str) for one in bases):
        raise ConfigError(
            f"{path}: base: got {base!r}; it should be the path of a file, or a list."
        )
    below: dict[str, Any] = {}
    for one in bases:  # a later one is laid over those before it
        below = merged(below, _with_base(path.parent / one, (*above, full)))
    return merged(below, data)


def _located(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``data`` with the paths of specifications made those of files: they are from the file."""

    def place(word: Any) -> Any:
        is_path = isinstance(word, str) and word not in PRESETS and word.endswith(_SUFFIXES)
        return str((folder / word).resolve()) if is_path else word

    arms = data.get("arms")
    if isinstance(arms, dict):
        data = {**data, "arms": {name: _located_arm(arm, place) for name, arm in arms.items()}}
    evaluation = data.get("evaluation")
    if isinstance(evaluation, dict) and isinstance(evaluation.get("under"), list):
        under = [place(word) for word in evaluation["under"]]
        data = {**data, "evaluation": {**evaluation, "under": under}}
    places = data.get("places")
    if isinstance(places, dict):
        made = {name: _located_place(one, folder) for name, one in places.items()}
        data = {**data, "places": made}
    return data


def _located_place(one: Any, folder: Path) -> Any:
    """A place with the path of its script made that of a file: it is from the study's."""
    prepare = one.get("prepare") if isinstance(one, dict) else None
    if not isinstance(prepare, dict) or not isinstance(prepare.get("script"), str):
        return one
    script = str((folder / prepare["script"]).resolve())
    return {**one, "prepare": {**prepare, "script": script}}


def _located_arm(arm: Any, place: Any) -> Any:
    if not isinstance(arm, dict):
        return arm
    noise = arm.get("noise")
    if isinstance(noise, str):
        return {**arm, "noise": place(noise)}
    if isinstance(noise, dict) and "spec" in noise:
        return {**arm, "noise": {**noise, "spec": place(noise["spec"])}}
    return arm


def _change(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    first = key.partition(".")[0]
    known = first in Study.model_fields and first not in ("arms", "name")
    if not equals or not known:
        fields = [name for name in Study.model_fields if name not in ("arms", "name")]
        raise ConfigError(
            f"--set {text}: it should be KEY=VALUE with a key of the study ({', '.join(fields)}), "
            "such as model.path=/models/qwen or trainer.trainer.test_freq=10."
        )
    try:
        data = read_yaml(value)
    except ConfigError as error:
        raise ConfigError(f"--set {text}: {error}") from None
    parts = key.split(".")
    if "trainer" in parts:
        # Below it a key is a path in verl's configuration, and one word here.
        above = parts.index("trainer") + 1
        parts = [*parts[:above], ".".join(parts[above:])]
    for part in reversed(parts):
        data = {part: data}
    return data


def noise_of(study: Study, name: str, seed: int) -> NoiseConfig | None:
    """The specification that an arm trains under with a training seed; None: clean.

    Raises:
        ConfigError: it is not valid, has a seed of its own, or its AQN is for a run of another
            length than the study's.
    """
    arm, where = study.arm(name), f"arms.{name}.noise"
    if arm.noise is None:
        return None
    data = _specification(arm, where)
    if "seed" in data or "seed" in (data.get("aqn") or {}):
        raise ConfigError(f"{where}: seed: it is the training seed, one of `seeds`; leave it out.")
    spec = NoiseConfig.parse(data, where=where)
    if spec.aqn is None:
        return spec.replace(seed=seed)
    try:
        aqn = spec.aqn.for_run(
            total_steps=study.steps, steps_per_epoch=_epoch(study.steps, study.epochs)
        )
        length = aqn.length()
    except ConfigError as error:
        raise ConfigError(f"{where}.aqn: {error}") from None
    if aqn.schedule != "constant" and length != study.steps:
        raise ConfigError(
            f"{where}.aqn: its schedule has {length} steps and the study {study.steps}; leave its "
            "length out, or make them agree."
        )
    return spec.replace(seed=seed, aqn=aqn.replace(seed=seed))


def _epoch(steps: int, epochs: int) -> int | None:
    return steps // epochs if steps % epochs == 0 else None


def _specification(arm: Arm, where: str) -> dict[str, Any]:
    """An arm's noise as one mapping, what it names read and its changes laid over that."""
    given = {"spec": arm.noise} if isinstance(arm.noise, str) else dict(arm.noise or {})
    named = given.pop("spec", None)
    if named is None:
        return given
    if named in PRESETS:
        return merged({"preset": named}, given)
    if not isinstance(named, str) or not named.endswith(_SUFFIXES):
        raise ConfigError(
            f"{where}: got {named!r}; it should be a preset ({', '.join(PRESETS)}) or the path of "
            "a .yaml or .json file."
        )
    path = Path(named)
    return merged(beside(_mapping(path), path.parent), given)
