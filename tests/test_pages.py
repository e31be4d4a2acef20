"""The pages as a whole: their code runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml

import hetero_plugin
from hetero_plugin import AQN, NoiseConfig, state_of, unwrap, wrap
from hetero_plugin.cli import COMMANDS, _module
from hetero_plugin.config import ERROR_MODELS
from hetero_plugin.config.error_models import REGISTRY, ErrorTraits
from hetero_plugin.errors import MODELS, ErrorModel
from hetero_plugin.errors.base import ARITHMETIC
from hetero_plugin.hf.discover import discover
from hetero_plugin.sites import FAMILIES, OTHERS, fused_parts, sites_from_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "recipes" / "README.md"])
BY_NAME = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
# What runs as it stands: without an engine, a download or names of the reader's own.
SELF_CONTAINED = ("README.md", "docs/index.md")


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language, indented ones too."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", BY_NAME[page], re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(text) for _, text in found]


CODE = [
    pytest.param(text, id=f"{page}-{number}")
    for page in BY_NAME
    for number, text in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize("page", SELF_CONTAINED)
def test_the_code_runs_when_pasted(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    space: dict[str, Any] = {}
    for text in blocks(page, "python"):
        exec(compile(text, page, "exec"), space)
    assert "noise=[relative_gaussian 0.05 (output, both)]" in capsys.readouterr().out


def test_the_code_on_hugging_face_runs(tmp_path: Path) -> None:
    """That which needs no trainer, on a tiny model: scores, a pass and its backward, adapters."""
    scores, a_pass, adapters, *_ = blocks("docs/huggingface.md", "python")
    path = tmp_path / "model"
    _tiny("qwen2").save_pretrained(path)
    space: dict[str, Any] = {}
    exec(IMPORTS, space)
    exec(scores, space | {"path": path})

    model = wrap(_tiny("qwen2"), NoiseConfig(scale=0.1, aqn={"total_steps": 20}), quiet=True)
    ids = torch.tensor([[1, 2, 3, 4]])
    exec(a_pass, space | {
        "model": model, "aqn": AQN(model), "step": 12,
        "batch": {"input_ids": ids, "labels": ids},
    })  # fmt: skip
    assert model.model.layers[0].mlp.down_proj.weight.grad.abs().sum() > 0

    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(target_modules=["q_proj"], r=2)
    lines = adapters.strip().splitlines()
    assert len(lines) == 3
    for line, noisy in zip(lines, ((True, False), (True, True), (False, True)), strict=True):
        here = space | {"model": _tiny("qwen2"), "lora": lora, "spec": NoiseConfig(scale=0.1)}
        exec(line, here)
        names = {chosen.site.name for chosen in state_of(here["model"]).selected}
        found = any("lora_" not in n for n in names), any("lora_" in n for n in names)
        assert found == noisy, line


IMPORTS = """
from transformers import AutoModelForCausalLM
from peft import get_peft_model
from hetero_plugin import NoiseConfig, disabled, phase, update, wrap
"""


@pytest.mark.parametrize("text", CODE)
def test_what_code_imports_from_this_package_is_there(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hetero_plugin"):
            for alias in node.names:
                assert _has(node.module or "", alias.name), f"{node.module}.{alias.name}"


def _has(module: str, name: str) -> bool:
    """Whether a module says a name, by its source: importing it might take an engine."""
    path = ROOT.joinpath(*module.split("."))
    if (path / f"{name}.py").is_file() or (path / name / "__init__.py").is_file():
        return True
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if source.with_suffix(".pyi").is_file():
        source = source.with_suffix(".pyi")  # of the package itself, which imports on first use
    said = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            said.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            said.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            said |= {alias.asname or alias.name for alias in node.names}
    return name in said


def _commands() -> Iterator[Any]:
    for page in BY_NAME:
        for text in [*blocks(page, "bash"), *re.findall(r"`(hetero-noise [^`]+)`", BY_NAME[page])]:
            for line in text.replace("\\\n", " ").splitlines():
                found = re.search(r"(?:^|[|;] *)hetero-noise ([^|>#;]*)", line)
                if found and found[1].strip():
                    yield pytest.param(found[1], id=f"{page}: {found[0].strip()}")


@pytest.mark.parametrize("line", list(_commands()))
def test_a_command_line_names_a_command_and_its_options(line: str) -> None:
    name, *words = shlex.split(line.replace("…", "x"))
    if name.startswith("--"):
        assert name in ("--help", "--version")
        return
    assert name in COMMANDS
    module = import_module(f"hetero_plugin.cli.{_module(name)}")
    if hasattr(module, "COMMANDS"):  # of a command with sub-commands
        assert words[0] in module.COMMANDS
        module = import_module(f"hetero_plugin.cli.{_module(f'{name} {words[0]}')}")
    app = typer.Typer(add_completion=False)
    app.command(name)(module.command)
    command = typer.main.get_command(app)
    options = {"--help"}
    for parameter in command.params:
        options |= {*parameter.opts, *parameter.secondary_opts}
    given = [word.split("=")[0] for word in words if word.startswith("--")]
    assert set(given) <= options, sorted(set(given) - options)


def test_every_target_of_make_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, text in BY_NAME.items():
        said = [*blocks(page, "bash"), *re.findall(r"`(make [^`]+)`", text)]
        named = {name for part in said for name in re.findall(r"^make ([a-z-]+)", part, re.M)}
        assert named <= targets, (page, named - targets)


@pytest.mark.parametrize("page", BY_NAME)
def test_links_lead_to_files_and_headings(page: str) -> None:
    text = re.sub(r"^ *```.*?^ *```", "", BY_NAME[page], flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), target
        if anchor:
            assert anchor in _anchors(there.read_text()), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def test_the_readme_leads_to_every_page_and_stays_short() -> None:
    linked = set(re.findall(r"\]\((docs/[a-z_]+\.md)", BY_NAME["README.md"]))
    # These three are other files of the repository, shown in the site.
    shown = {f"docs/{name}.md" for name in ("recipes", "changes", "contributing")}
    assert {page for page in BY_NAME if page.startswith("docs/")} - shown == linked
    assert len(BY_NAME["README.md"].splitlines()) < 150


class _Loader(yaml.SafeLoader):
    """mkdocs.yml names one Python function, which is of no interest here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def test_the_site_has_every_page() -> None:
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)["nav"]
    listed = re.findall(r"'([a-z_]+\.md)'", str(nav))
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_glossary_has_the_words_that_no_field_shares() -> None:
    words = re.findall(r"^\| ([^|]+?) \|", BY_NAME["docs/glossary.md"], re.MULTILINE)
    for word in ("AQN", "QeRL", "E2 … E8", "knock-in", "Holm", "Tango", "attestation", "address"):
        assert word in words
    assert "site" in words and words[2:] == sorted(words[2:], key=str.lower)


def test_the_version_is_said_once() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert said == hetero_plugin.__version__
    project = (ROOT / "pyproject.toml").read_text()
    assert "hetero_plugin.__version__" in project and not re.search(r"^version = \"", project, re.M)


# ---- the pages on adding things ----


def test_the_engine_of_the_page_has_hugging_faces_error() -> None:
    space: dict[str, Any] = {}
    (text,) = blocks("docs/add_engine.md", "python")
    exec(compile(text, "docs/add_engine.md", "exec"), space)
    spec = NoiseConfig(scale=0.05, targets=["*.down_proj"], seed=3)
    model = _tiny("qwen2")
    down = model.model.layers[0].mlp.down_proj
    seen: list[torch.Tensor] = []
    down.register_forward_hook(lambda module, args, y: seen.extend([args[0], y]))
    wrap(model, spec, quiet=True)
    ids = torch.tensor([[5, 9, 2, 7]])
    with torch.no_grad():
        model(ids)
        engine = space["Engine"](down.weight.detach(), spec)
        x, noisy = (tensor.reshape(4, -1) for tensor in seen)
        got = engine.forward(x, ids[0], torch.arange(4))
        assert not torch.equal(got, x @ down.weight.T)
        torch.testing.assert_close(got, noisy, rtol=1e-6, atol=1e-7)  # the GEMMs' own difference
        engine.state.set_scale(0.0)
        assert torch.equal(engine.forward(x, ids[0], torch.arange(4)), x @ down.weight.T)


def _tiny(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = dict(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).eval()


def test_the_families_of_the_page_are_mapped_as_they_are_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (text,) = blocks("docs/add_family.md", "python")
    examples = {"granite": 15, "glm4": 16}
    for family in examples:
        assert family not in FAMILIES, "the page's example is there now: give it another"
        monkeypatch.setitem(FAMILIES, family, OTHERS)  # gone again afterwards
    exec(compile(text, "docs/add_family.md", "exec"), {})
    ids = torch.tensor([[5, 9, 2, 7]])
    for family, count in examples.items():
        model = _tiny(family)
        mapped = sites_from_config(model.config.to_dict())
        assert set(mapped) == {one.site for one in discover(model)} and len(mapped) == count
        clean = model(ids).logits
        wrap(model, "all-ops", quiet=True)
        assert not torch.equal(model(ids).logits, clean)
        assert torch.equal(unwrap(model)(ids).logits, clean)
    assert fused_parts("glm4", "act_fn") == ("activation_fn",)


def test_the_error_model_of_the_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, function = blocks("docs/error_models.md", "python")
    traits = eval(entry, {"ErrorTraits": ErrorTraits})
    monkeypatch.setitem(REGISTRY, "coarse", traits)
    monkeypatch.setitem(ERROR_MODELS, "coarse", traits.formula)
    monkeypatch.setitem(ARITHMETIC, "coarse", None)  # gone again afterwards
    del ARITHMETIC["coarse"]
    space: dict[str, Any] = {}
    exec(compile(function, "docs/error_models.md", "exec"), space)
    made_model = ErrorModel(**vars(traits), function=ARITHMETIC["coarse"])
    monkeypatch.setitem(MODELS, "coarse", made_model)
    (engine,) = blocks("docs/add_engine.md", "python")
    exec(compile(engine, "docs/add_engine.md", "exec"), space)
    torch.manual_seed(0)
    weight, x = torch.randn(8, 16), torch.randn(12, 16)
    made = space["Engine"](weight, NoiseConfig(error="coarse", scale=0.5))
    got = made.forward(x, torch.arange(12), torch.arange(12)).double()
    clean = (x @ weight.T).double()
    edge = 0.5 * clean.abs().amax(-1, keepdim=True)
    small = clean.abs() < edge
    assert 0 < small.sum() < small.numel()
    assert torch.equal(got[~small], clean[~small])
    steps = (got / (edge / 4))[small]
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-6)
    assert ((got - clean).abs() <= edge / 8 * (1 + 1e-6))[small].all()


def test_what_builds_the_site_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = project["project"]["optional-dependencies"]["docs"]
    names = {re.split(r"[\[<>=]", one)[0] for one in asked}
    pinned = dict(
        re.findall(r"^([\w.-]+)==(.+)$", (ROOT / "requirements/docs.txt").read_text(), re.M)
    )
    assert names == {"mkdocs-material", "mkdocstrings", "ruff"} <= set(pinned)


def test_files_that_the_pages_name_are_there() -> None:
    for page in ("docs/add_engine.md", "docs/add_family.md", "CONTRIBUTING.md"):
        for name in re.findall(
            r"`((?:hf|vllm|tests|docs|hetero_plugin)/[a-z_/0-9]+\.py)`", BY_NAME[page]
        ):
            places = (ROOT / name, ROOT / "hetero_plugin" / name)
            assert any(place.is_file() for place in places), f"{page}: {name}"
