"""``hetero-noise random``: the generator's stream, raw, on stdout."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation.streams import ORDERS, stream_bytes


def command(
    order: Annotated[
        str, typer.Option(help=f"Which keys are walked: {', '.join(ORDERS)}.")
    ] = "columns",
    seed: Annotated[int, typer.Option(help="The spec's seed.")] = 0,
    count: Annotated[
        int | None, typer.Option("--bytes", min=1, help="How many bytes; without it, for ever.")
    ] = None,
    list_orders: Annotated[bool, typer.Option("--list", help="Say what each order walks.")] = False,
) -> None:
    """Write the words that walking the keys in an order gives, raw little-endian, to stdout.

    For statistical batteries, e.g. ``hetero-noise random --order rows | dieharder -a -g 200``.
    """
    if list_orders:
        for name, (_, about) in ORDERS.items():
            typer.echo(f"{name:15} {about}")
        return
    if order not in ORDERS:
        raise ConfigError(f"--order: got {order!r}; it should be one of {', '.join(ORDERS)}")
    if sys.stdout.isatty():
        raise ConfigError("stdout is a terminal and the stream is binary; pipe it or redirect it")
    out = sys.stdout.buffer
    try:
        for piece in stream_bytes(order, seed, count):
            out.write(piece)
        out.flush()
    except BrokenPipeError:
        sys.stderr.close()  # the reader has had enough; Python would complain when flushing
