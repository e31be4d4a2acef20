"""What an evaluation needs of the installation, asked before minutes of work and not after."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDED = {
    "vllm": ("to answer the questions", "vllm"),
    "scipy": ("for the intervals of its accuracies", "eval"),
    "statsmodels": ("for the tests of its accuracies", "eval"),
}


def check_packages(backend: str = "vllm") -> None:
    """That the packages of an evaluation are there; the first answers need only some of them.

    Args:
        backend: what answers; vLLM is needed for no other.

    Raises:
        ImportError: one is not; the message names the extra.
    """
    for package, (purpose, extra) in _NEEDED.items():
        if package == "vllm" and backend != "vllm":
            continue
        if find_spec(package) is None:
            hint = " (on a machine without a GPU: make env in a clone)" if extra == "vllm" else ""
            raise ImportError(
                f"an evaluation needs {package} {purpose}, and it is not installed: "
                f"pip install 'hetero-plugin[{extra}]'{hint}"
            )
