"""The ``hetero-noise`` command.

Each sub-command is a file ``cli/<name>.py`` with a function ``command``, whose signature is the
command line (typer reads it). The file is imported when the command is called, so that
``hetero-noise --help`` and the cheap commands don't wait for an engine to load. A sub-command that
has sub-commands of its own is a folder ``cli/<name>/`` with such files and a table ``COMMANDS``.
"""

from __future__ import annotations

import keyword
import signal
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

__all__ = ["COMMANDS", "app"]

# Name -> what it does, in the order of the help. The module is the name with underscores.
COMMANDS: dict[str, str] = {
    "doctor": "Say what this machine can do and what is missing.",
    "plan": "List the sites that a specification selects.",
    "schema": "Print the JSON schema of a specification, for editors; or of a report.",
    "schedule": "Print and plot the σ of AQN at every step.",
    "formats": "Say how large the error of number formats is.",
    "study": "List, check, run and report the studies of files.",
    "train": "Train with verl under a specification.",
    "eval": "Evaluate a checkpoint at several noise levels.",
    "attest": "Prove that each site perturbs the output.",
    "report": "Make the report of a run anew.",
    "fidelity": "Measure how far noisy distributions are from clean.",
    "dial": "Find the scale that gives a mismatch of a wanted size.",
    "dose": "Fit accuracy or KL over levels, and say where it is lost.",
    "power": "Say what a number of questions can show.",
    "compare": "Compare two runs of anybody's harness, paired.",
    "random": "Write the generator's stream, for test batteries.",
    "bench": "Measure the cost of the noise.",
    "sensitivity": "Measure what error at each site alone does.",
    "compare-machines": "Tell a bug from the floor of two machines.",
    "profile": "Record, fit, replay a measured difference.",
}


def _module(name: str) -> str:
    """The module of a command, below this one; of ``profile import`` it is profile.import_."""
    words = [word.replace("-", "_") for word in name.split()]
    return ".".join(f"{word}_" if keyword.iskeyword(word) else word for word in words)


def _fail(name: str, error: Exception) -> NoReturn:
    """One paragraph on stderr and exit status 2: the user's setting is wrong, not the program."""
    print(f"hetero-noise {name}: error: {error}", file=sys.stderr)
    raise SystemExit(2)


def _terminated(number: int, frame: object) -> NoReturn:
    """Ends as an interrupt does, so that engines end with the command that started them.

    With the system's own way nothing is cleaned up, and vLLM's processes go on computing.
    """
    raise SystemExit(128 + number)


def _run(name: str, args: list[str]) -> None:
    """Loads the sub-command ``name``, such as ``profile record``, and gives it ``args``."""
    import typer

    from hetero_plugin.config.problems import ConfigError

    signal.signal(signal.SIGTERM, _terminated)
    # Plain help: with markup, "[all]" in an option's description would vanish as a style.
    one = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    try:
        module = import_module(f"hetero_plugin.cli.{_module(name)}")
        if hasattr(module, "COMMANDS"):
            one = _build(module.ABOUT, module.COMMANDS, f"{name} ")
        else:
            one.command(name)(module.command)
        one(args, prog_name=f"hetero-noise {name}")
    except ConfigError as error:
        _fail(name, error)
    except ImportError as error:
        # The words of the engines' folders name the extra to install; any other is a fault of ours.
        if "pip install" not in str(error):
            raise
        _fail(name, error)
    except RuntimeError as error:
        from hetero_plugin.attestation import Refused  # imports torch

        if not isinstance(error, Refused):
            raise
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        # A file or folder that the system refuses, by name; without one it is a fault of ours.
        if error.filename is None:
            raise
        _fail(name, OSError(f"{error.filename}: {error.strerror}"))


try:
    import typer
except ImportError:

    def app() -> NoReturn:
        """Says what is missing: the command line is not part of the core's dependencies."""
        print(
            "hetero-noise: error: the command line needs typer, which is not installed: "
            "pip install 'hetero-plugin[hf]'",
            file=sys.stderr,
        )
        raise SystemExit(2)

else:

    def _add(app: typer.Typer, group: str, name: str, about: str) -> None:
        # Everything after the name, --help included, goes on to the command unread.
        @app.command(
            name,
            help=about,
            add_help_option=False,
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )
        def forward(context: typer.Context) -> None:
            _run(f"{group}{name}", context.args)

    def _say(version: bool) -> None:
        if version:
            from hetero_plugin import __version__

            typer.echo(f"hetero-noise {__version__}")
            raise typer.Exit

    def _build(about: str, commands: Mapping[str, str], group: str = "") -> typer.Typer:
        app = typer.Typer(
            help=about,
            no_args_is_help=True,
            add_completion=False,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
        )
        # A callback keeps the sub-commands' names even if there is only one of them.
        app.callback()(_nothing if group else _whole)
        here = Path(__file__).parent.joinpath(*group.split())
        for name, does in commands.items():
            if any((here / f"{_module(name)}{end}").exists() for end in ("", ".py")):
                _add(app, group, name, does)
        return app

    def _nothing() -> None:
        return None

    def _whole(
        version: Annotated[
            bool,
            typer.Option("--version", help="Print the version.", callback=_say, is_eager=True),
        ] = False,
    ) -> None:
        return None

    app = _build(
        "Makes one machine compute, numerically, like another, and measures the effect.", COMMANDS
    )
