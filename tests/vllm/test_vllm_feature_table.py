"""The feature matrix, its tests and its page say the same."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.engines.features import DOCS, FEATURES, Feature, page

TESTS = Path(__file__).parents[1]


def functions(file: str) -> set[str]:
    found = [path for path in (TESTS / "engines" / file, TESTS / "vllm" / file) if path.is_file()]
    assert len(found) == 1, file
    return {
        node.name
        for node in ast.parse(found[0].read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("feature", FEATURES, ids=lambda f: f.name)
def test_each_test_of_a_feature_is_there(feature: Feature) -> None:
    assert feature.tests
    for name in feature.tests:
        file, _, function = name.partition("::")
        assert function in functions(file), name


@pytest.mark.parametrize("file", ["test_vllm_features.py", "test_vllm_async.py"])
def test_each_test_of_a_file_belongs_to_a_feature(file: str) -> None:
    named = {name.partition("::")[2] for f in FEATURES for name in f.tests if name.startswith(file)}
    assert functions(file) == named


def test_the_page_has_the_table() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert text == page(text), "write it anew: python -m tests.engines.features"
