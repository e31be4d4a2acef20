"""``hetero-noise plan``: the sites that a specification selects, without loading weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from hetero_plugin.cli.checkpoint import fetched
from hetero_plugin.cli.options import read_model_config, spec_from_options
from hetero_plugin.config import ConfigError, NoiseConfig, NoiseRule, resolve
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.sites import Selected, Site, aqn_sites, counts, select, sites_from_config
from hetero_plugin.sites.fixed import fixed_weights

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


def command(
    model: Annotated[
        str, typer.Option(help="Folder of a checkpoint, its config.json, or a name on the hub.")
    ],
    preset: Annotated[str | None, typer.Option(help="Name of a preset.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Specification: a .yaml or .json file, or JSON text.")
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Replaces every rule's scale.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="bfloat16, float16 or float32 of the engine; default: the checkpoint's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List the sites that a specification selects in a model, by kind; loads no weights.

    What the model could not run is refused here too, in the dtype that it is loaded in. Where a
    number format is on weights, the bytes that are kept beside them are said.

    Without --preset, --config or --scale the checkpoint's own quantization_config applies, then
    the environment variable HETERO_NOISE_CONFIG, then the preset qerl-fp4.
    """
    hf_config = read_model_config(str(fetched(model, weights=False)))
    spec = resolve(
        argument=spec_from_options(preset, config, scale),
        model_config=hf_config.get("quantization_config"),
    )
    if spec is None:
        spec = NoiseConfig.parse(None)
    of_engine = _dtype_of(dtype, hf_config)
    sites = sites_from_config(hf_config)
    selected, noisy_norms = select(spec, sites), aqn_sites(spec, sites)
    _check_profiles(spec, selected)
    notes = _check_rules(selected, of_engine)
    held = _held(selected, hf_config, of_engine)
    if as_json:
        typer.echo(json.dumps(_as_json(spec, selected, noisy_norms, held, notes), indent=2))
    else:
        _print(spec, sites, selected, noisy_norms)
        for note in notes:
            typer.echo(f"note: {note}")
        if held.weights:
            typer.echo(held.words)


@dataclass(frozen=True)
class _Held:
    """The weights with a fixed error, which engines keep beside the clean ones."""

    weights: int
    elements: int
    dtype: str

    @property
    def nbytes(self) -> int:
        return self.elements * _BYTES[self.dtype]

    @property
    def words(self) -> str:
        return (
            f"weights with a fixed error: {self.weights}, computed once and kept beside the clean "
            f"ones: {self.nbytes:,} bytes in {self.dtype}, over all ranks (in vLLM on a CPU in "
            "place of its packed copies)"
        )


def _dtype_of(given: str | None, hf_config: Mapping[str, Any]) -> str | None:
    """The dtype that the model is loaded in; None: neither option nor checkpoint say."""
    if given is not None and given not in _BYTES:
        raise ConfigError(f"--dtype {given}: it should be one of {', '.join(_BYTES)}.")
    named = given or hf_config.get("dtype") or hf_config.get("torch_dtype")
    return named if isinstance(named, str) and named in _BYTES else None


def _held(selected: Sequence[Selected], hf_config: Mapping[str, Any], dtype: str | None) -> _Held:
    found = fixed_weights(selected, hf_config)
    return _Held(len(found), sum(elements for _, elements in found), dtype or "bfloat16")


def _check_rules(selected: Sequence[Selected], dtype: str | None) -> list[str]:
    """Raises ConfigError for a rule that can't act at a site, as a model would.

    Returns:
        What would be refused of a rule that is for one phase alone, whose engine may have another
        dtype.
    """
    rules = [rule for one in selected for _, rule in one.rules]
    if all(rule.point == "output" and not REGISTRY[rule.error].of_product for rule in rules):
        return []
    from hetero_plugin.state.operands import check_points, units_missing  # with torch

    check_points(selected)
    notes = []
    for rule, words in units_missing([(one, dtype or "") for one in selected], besides=None):
        if rule.phase == "both":
            raise ConfigError(f"{words}. --dtype says what it is loaded in")
        notes.append(f"in {rule.phase}, should it be loaded in {dtype} there: {words}")
    return notes


def _as_json(
    spec: NoiseConfig,
    selected: Sequence[Selected],
    noisy_norms: Sequence[Site],
    held: _Held,
    notes: Sequence[str],
) -> dict[str, Any]:
    return {
        "sites": [
            {
                "name": s.site.name,
                "kind": s.site.kind,
                "layer": s.site.layer,
                "features": s.site.features,
                "in_features": s.site.in_features,
                "rules": [index for index, _ in s.rules],
            }
            for s in selected
        ],
        "by_kind": counts(selected),
        "total": len(selected),
        "aqn_sites": [site.name for site in noisy_norms],
        "held": {"weights": held.weights, "bytes": held.nbytes, "dtype": held.dtype},
        "notes": list(notes),
        "fingerprint": spec.fingerprint,
        "spec": json.loads(spec.canonical),
    }


def _check_profiles(spec: NoiseConfig, selected: Sequence[Selected]) -> None:
    """Raises ConfigError where a profile has no table for a site, as a model would."""
    for chosen in selected:
        for index, rule in chosen.rules:
            if rule.path is not None:
                from hetero_plugin.state.profiles import profile_word  # with torch

                profile_word(index, rule, chosen.site, spec.seed)


def _describe(rule: NoiseRule) -> str:
    words = [f"{rule.error} {rule.scale:g}", f"at the {rule.point}", f"{rule.direction}"]
    if rule.direction == "both":
        words[-1] = "forward and backward"
    if rule.phase != "both":
        words.append(f"in {rule.phase} only")
    if rule.path is not None:
        words.insert(1, f"of {rule.path} ({str(rule.digest)[:16]})")
    if rule.rounding != "stochastic":
        words.append(f"rounding {rule.rounding}")
    if rule.ste != "identity":
        words.append(f"{rule.ste} straight-through gradient")
    if rule.gradient_rounding != "nearest":
        words.append(f"gradients rounded {rule.gradient_rounding}ally")
    return ", ".join(words)


def _print(
    spec: NoiseConfig,
    sites: Sequence[Site],
    selected: Sequence[Selected],
    noisy_norms: Sequence[Site],
) -> None:
    for index, rule in enumerate(spec.rules):
        hit = [s for s in selected if any(i == index for i, _ in s.rules)]
        typer.echo(f"rule {index}: {_describe(rule)}: {len(hit)} sites")
    if noisy_norms:
        typer.echo(f"AQN ({spec.aqn.schedule if spec.aqn else ''}): {len(noisy_norms)} norms")
    width = max((len(s.site.name) for s in selected), default=0)
    for s in selected:
        numbers = ",".join(str(i) for i, _ in s.rules)
        columns = f"{s.site.name:<{width}}  {s.site.kind:<10}  {s.site.features:>7} features"
        typer.echo(f"  {columns}  rules {numbers}")
    have = counts(sites)
    for kind, number in counts(selected).items():
        typer.echo(f"{kind}: {number} of {have[kind]}")
    typer.echo(f"total: {len(selected)} of {len(sites)} sites, specification {spec.fingerprint}")
