"""Faults of vLLM's processes. Run by ``tests/engines/test_faults_vllm.py``, in one engine.

``bench.py`` is the process that holds the engine; each function here asks it to do something.
"""

from __future__ import annotations

from tests.faults.bench import OUT, Bench
from tests.faults.registry import fault, noticed

UP = "model.layers.1.mlp.up_proj"


def refused(bench: Bench, *words: str) -> str:
    """The words with which the engine's attestation is refused."""
    found = bench.ask("attest")
    return noticed(bool(found) and all(word in found for word in words), found or "it passes")


# ---- before an engine starts: configuration alone


@fault(
    "all noise",
    "vLLM's configuration is made where the plugin is not installed",
    "vLLM knows no such quantization, and starts nothing",
    by="error",
    engine="vllm",
)
def plugin_not_installed() -> str:
    return _before("not_installed", "hetero_noise")


@fault(
    "all noise",
    "`VLLM_PLUGINS` names another plugin only",
    "vLLM knows no such quantization, and starts nothing",
    by="error",
    engine="vllm",
)
def vllm_plugins_excludes_it() -> str:
    return _before("excluded", "hetero_noise")


@fault(
    "all noise",
    "a specification in `additional_config`, and no `quantization`",
    "ConfigError: the engine would run clean",
    by="error",
    engine="vllm",
)
def quantization_forgotten() -> str:
    return _before("forgotten", "would run clean")


@fault(
    "one of two specifications' graphs",
    "two specifications for one model and one compile cache",
    "vLLM's compile hashes differ, also by the plugin's version",
    by="values",
    engine="vllm",
)
def stale_compile_cache() -> str:
    return _before("cache", "4 different hashes")


@fault(
    "agreement of processes",
    "a worker with another version of the plugin than the engine's process",
    "ConfigError with both versions",
    by="error",
    engine="vllm",
)
def another_plugin_version() -> str:
    return _before("version", "0.0.9", "install one version everywhere")


_answers: dict[str, str] = {}


def _before(case: str, *words: str) -> str:
    """What the configuration process said; it runs once, since importing vLLM takes most of it."""
    from tests.faults.bench import configure

    if not _answers:
        _answers.update(configure())
    found = _answers[case]
    return noticed(all(word in found for word in words), found)


# ---- in a running engine


@fault(
    "the specification",
    "the engine core is spawned without the environment variable that holds it",
    "the engine has it all the same, every site is seen",
    by="values",
    engine="vllm",
)
def environment_not_inherited_by_the_core(bench: Bench) -> str:
    found = bench.ask("attest")
    return noticed(found == "" and bench.ask("environment") == [None], found or "attested")


@fault(
    "one part of a fused layer",
    "the up half of gate_up_proj reads no entry of the scale table",
    "refused, with the site",
    by="attestation",
    engine="vllm",
)
def part_of_a_fused_layer_skipped(bench: Bench) -> str:
    undo = bench.ask("break_site", name=UP)
    try:
        return refused(bench, f"not seen: {UP}")
    finally:
        bench.ask("mend_site", name=UP, slot=undo)


@fault(
    "every change of scale",
    "the compiled graph reads an old scale table",
    "refused: no site is seen",
    by="attestation",
    engine="vllm",
)
def graph_with_an_old_table(bench: Bench) -> str:
    bench.ask("detach_table")
    try:
        return refused(bench, "not seen: model.layers.0.mlp.gate_proj")
    finally:
        bench.ask("attach_table")


@fault(
    "independence of tokens in vLLM",
    "every row of a pass has the first one's key",
    "refused: rows are not known by token and position",
    by="attestation",
    engine="vllm",
)
def one_key_for_all_rows_of_an_engine(bench: Bench) -> str:
    bench.ask("alike_rows")
    try:
        return refused(bench, "rows are known by token and position", "rank 0: 1 of 24 rows")
    finally:
        bench.ask("mend_rows")


@fault(
    "independence of layers in vLLM",
    "every linear site of the engine has the first one's key",
    "refused, with pairs of sites",
    by="attestation",
    engine="vllm",
)
def one_key_for_all_layers_of_an_engine(bench: Bench) -> str:
    keys = bench.ask("alike_sites")
    try:
        return refused(bench, "sites differ", f"and {UP} output")
    finally:
        bench.ask("mend_sites", keys=keys)


@fault(
    "AQN at one norm",
    "a norm's offset is lost in the worker",
    "refused, with the norm",
    by="attestation",
    engine="vllm",
)
def aqn_lost_in_the_worker(bench: Bench) -> str:
    bench.ask("break_norm", name="model.norm")
    try:
        return refused(bench, "AQN norm", "model.norm")
    finally:
        bench.ask("mend_norm", name="model.norm")


@fault(
    "the noise, or AQN, at a weight sync",
    "all weights are loaded anew into the live engine",
    "log-probabilities are the noisy ones they were",
    by="values",
    engine="vllm",
)
def weight_sync_in_a_live_engine(bench: Bench) -> str:
    bench.ask("step", n=2)
    before = bench.ask("logprobs")
    bench.ask("reload")
    after = bench.ask("logprobs")
    off = bench.ask("logprobs_clean")
    return noticed(before == after != off, "the same noise before and after")


@fault(
    "a sync at weights in a number format: Q(W) of the old weights",
    "another checkpoint is loaded while nothing tells of new weights (version, load, bits)",
    "refused, with the layer",
    by="attestation",
    engine="vllm",
)
def stale_quantised_weight_after_a_sync(bench: Bench) -> str:
    found = bench.ask("sync_unseen")
    words = ("weights with error are of the present weights", f"rank 0: {OUT}")
    return noticed(all(word in found for word in words), found or "it passes")


@fault(
    "a sync at weights in a number format: Q(W) of the old weights",
    "a worker call writes `parameter.data` of a live engine, past `load_weights`",
    "Q(W) follows: the bits are compared after the call",
    by="values",
    engine="vllm",
)
def weight_written_past_loading(bench: Bench) -> str:
    found = bench.ask("sync_past_loading")
    return noticed(found == [True, True, True], f"follows, is back, attested: {found}")


@fault(
    "the new σ: keys and values of the old one",
    "a prompt in the prefix cache, then another scale, then the prompt again",
    "nothing is read from the cache, and the answer is that of an empty one",
    by="values",
    engine="vllm",
)
def stale_prefix_cache(bench: Bench) -> str:
    found = bench.ask("prefix")
    right = found["warm"] > 0 and found["after"] == 0 and found["answers_equal"]
    return noticed(right, f"cached tokens: {found}")


@fault(
    "rows' identity",
    "a forward pass without positions reaches the worker's model",
    "RowKeyError",
    by="error",
    engine="vllm",
)
def rows_without_positions(bench: Bench) -> str:
    found = bench.ask("no_positions")
    return noticed("RowKeyError" in found and "positions" in found, found)


@fault(
    "certainty: was the scale set?",
    "the engine core is killed between a setting and its answer",
    "the call raises, and an attestation afterwards is refused",
    by="error",
    engine="vllm",
)
def killed_between_set_and_ack(bench: Bench) -> str:
    raised = bench.ask("kill_while_setting")
    found = bench.ask("attest")
    return noticed(bool(raised) and "engine answers" in found, f"{raised}; {found}")


@fault(
    "all noise: enabled in the parent, the engine a child without it",
    "an engine of vLLM's own, attested under the specification",
    "REFUSED, with the process",
    by="attestation",
    engine="vllm",
)
def engine_in_a_child_without_it(bench: Bench) -> str:
    found = bench.ask("attest_plain_engine")
    return noticed("one fingerprint in every process: None" in found, found)
