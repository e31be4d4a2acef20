"""``hetero-noise schema``: the JSON schema of a specification, or of a report."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer


class Of(StrEnum):
    """What is described."""

    spec = "spec"
    report = "report"


def command(
    of: Annotated[Of, typer.Argument(help="A specification, or a report's JSON file.")] = Of.spec,
) -> None:
    """Print the JSON schema of a specification, with which editors complete and check a file.

    Redirect it into a file and name that in YAML's first line:
    # yaml-language-server: $schema=spec.schema.json

    schema report: of the JSON that eval and report write beside their page.
    """
    if of is Of.report:
        from hetero_plugin.evaluation.report.schema import json_schema as schema
    else:
        from hetero_plugin.config.schema import json_schema as schema
    typer.echo(json.dumps(schema(), indent=2, ensure_ascii=False))
