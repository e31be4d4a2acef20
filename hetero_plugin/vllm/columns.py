"""Which columns of its sites a layer holds on this rank, and what those are too few for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
)
from vllm.model_executor.layers.linear import ColumnParallelLinear, LinearBase, QKVParallelLinear

from hetero_plugin.config import ConfigError
from hetero_plugin.errors import error_model
from hetero_plugin.operator import Chain, Part
from hetero_plugin.sites import Site, family_of
from hetero_plugin.state import NoiseState


def parts_of(
    layer: LinearBase, name: str, sites: Sequence[str], sizes: Sequence[int], offsets: Sequence[int]
) -> list[Part]:
    """The columns of a layer on this rank, as consecutive parts of sites.

    Args:
        layer: a linear layer that may be several in one.
        name: its own, for the error.
        sites: names of the sites that it carries: as many as it has parts, or, where the Hugging
            Face model has one matrix too (Phi-3), a single one for all parts.
        sizes: columns of each part on this rank; empty: not known.
        offsets: of each part's first column within the whole part.

    Raises:
        ConfigError: sites and parts do not go together.
    """
    if sizes and len(sites) == len(sizes):
        return list(zip(sites, sizes, offsets, strict=True))
    if not sizes or len(sites) != 1:
        raise ConfigError(
            f"hetero_noise: {name} ({type(layer).__name__}, {type(layer.quant_method).__name__}) "
            f"is to carry {', '.join(sites)}, and does not hold that many parts"
        )
    (site,) = sites
    if layer.tp_size == 1:
        return [(site, sum(sizes), 0)]  # in one piece: an error may depend on the whole row
    starts = accumulate([0, *_whole_sizes(layer)[:-1]])
    firsts = [start + offset for start, offset in zip(starts, offsets, strict=True)]
    return [(site, size, first) for size, first in zip(sizes, firsts, strict=True)]


def _whole_sizes(layer: LinearBase) -> list[int]:
    """Columns of each part before sharding; key-value heads that several ranks hold count once."""
    if isinstance(layer, QKVParallelLinear):
        keys, values = layer.head_size, layer.v_head_size
        heads, groups = layer.total_num_heads, layer.total_num_kv_heads
        return [heads * keys, groups * keys, groups * values]
    sizes = getattr(layer, "output_sizes", None)
    return [layer.output_size] if sizes is None else list(sizes)


def check_norm(site: Site, family: str) -> None:
    """Refuses a norm of all heads together where each rank has some of the heads.

    Raises:
        ConfigError: as it says.
    """
    leaf = site.name.rpartition(".")[2]
    ranks = get_tensor_model_parallel_world_size()
    if ranks == 1 or site.heads > 1 or leaf not in family_of(family).names.projected:
        return
    raise ConfigError(
        f"hetero_noise: {site.name} norms all heads of a token together, and with "
        f"tensor_parallel_size={ranks} each rank has some of the heads: its error and AQN's offset "
        f"would be those of other columns. Exclude '*.{leaf}' (and of AQN, name the other norms in "
        "aqn.targets), or use tensor_parallel_size=1"
    )


def equal_share(features: int) -> tuple[int, int]:
    """Width and first column of this rank's equal share of a sharded tensor."""
    width = features // get_tensor_model_parallel_world_size()
    return width, get_tensor_model_parallel_rank() * width


def share_of_heads(site: Site, size: int) -> tuple[int, int]:
    """Width and first column of this rank's heads in a norm of each head.

    Args:
        site: its features are those of all heads.
        size: features of one head.
    """
    ranks, heads = get_tensor_model_parallel_world_size(), site.features // size
    # With fewer key-value heads than ranks, neighbouring ranks hold the same head.
    mine, copies = max(1, heads // ranks), max(1, ranks // heads)
    return mine * size, get_tensor_model_parallel_rank() // copies * mine * size


def column_offsets(layer: LinearBase, sizes: Sequence[int]) -> Iterator[int]:
    """The global index of the first column of each part that this rank holds."""
    for i, width in enumerate(sizes):
        if not isinstance(layer, ColumnParallelLinear):
            yield 0
        elif isinstance(layer, QKVParallelLinear) and i > 0:
            # With fewer key-value heads than ranks, neighbouring ranks hold the same head.
            yield layer.tp_rank // layer.num_kv_head_replicas * width
        else:
            yield layer.tp_rank * width


def check_rows(state: NoiseState, chain: Chain, rows: int, first: int = 0) -> None:
    """Raises ConfigError where a rank's rows of a weight are not all that its error needs.

    Args:
        first: the number of the first of the rows in the whole weight.
    """
    models = [error_model(stage.error) for stage in chain.stages]
    name = chain.parts[0][0]
    whole = next((site.features for site in state.sites if site.name == name), rows)
    for model in models:
        short = model.name.partition("|")[0]
        if (model.matrix_rows or model.whole_tensor) and rows != whole:
            of, use = "the whole tensor", "one rank"
            if model.matrix_rows:
                of, use = "each expert's matrix or of tiles of it", "one rank, expert parallelism"
            instead = "tensor_scale: row" if short == "nvfp4" else "granularity: row"
            raise ConfigError(
                f"hetero_noise: {short} with a scale of {of}, and this rank has {rows} of the "
                f"{whole} rows of {name}'s weight, whose largest is not the whole's; use {use}, or "
                f"options: {{{instead}}} or the number itself"
            )
        end = first + rows
        if first % model.block_rows or (end % model.block_rows and end != whole):
            raise ConfigError(
                f"hetero_noise: {short} in tiles of {model.block_rows} rows, and this rank has "
                f"rows {first} to {end} of the {whole} of {name}'s weight, which cuts one; use a "
                "number of ranks that divides the rows at edges of tiles, or granularity: row"
            )


def check_product(name: str, quantised: str, summed: bool) -> None:
    """Raises ConfigError where a layer's product can't be added up in another way.

    Args:
        name: of the layer.
        quantised: as in `NoisyMethod`.
        summed: each rank has a piece of the sum.
    """
    if quantised:
        raise ConfigError(
            f"hetero_noise: {name} has the method {quantised}, which multiplies in a way of its "
            "own; the error accumulate is for weights that are not quantised"
        )
    if summed:
        raise ConfigError(
            f"hetero_noise: every tensor-parallel rank adds up a piece of {name}, so the result of "
            "accumulate would depend on their number; partial=true says that this is meant, or "
            "use one rank, or exclude it"
        )
