"""``hetero-noise schema``: the JSON schema of a specification."""

from __future__ import annotations

import json

import typer


def command() -> None:
    """Print the JSON schema of a specification, with which editors complete and check a file.

    Redirect it into a file and name that in YAML's first line:
    # yaml-language-server: $schema=spec.schema.json
    """
    from hetero_plugin.config.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
