"""Each model holds within its bounds, and each bug built into it is found."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.models.__main__ import HERE, MODELS, Model, missing, search

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}")


def case(model: Model, bounds: str, what: str) -> Any:
    return pytest.param(model.name, what, marks=[pytest.mark.slow] if bounds in model.slow else [])


@pytest.mark.parametrize(("name", "bounds"), [case(m, bounds, bounds) for m in MODELS.values() for bounds in m.bounds])
def test_the_model_holds(name: str, bounds: str) -> None:
    outcome = search(MODELS[name], bounds)
    assert outcome.violation == ""
    assert outcome.states > 1000


@pytest.mark.parametrize(
    ("name", "bug"), [case(m, bounds, bug) for m in MODELS.values() for bug, bounds in m.bugs.items()]
)
def test_a_seeded_bug_is_found(name: str, bug: str) -> None:
    assert "assertion violated" in search(MODELS[name], MODELS[name].bugs[bug], bug).violation


def test_every_model_and_every_bug_is_in_the_table() -> None:
    assert {path.stem for path in HERE.glob("*.pml")} == MODELS.keys()
    for model in MODELS.values():
        text = (HERE / f"{model.name}.pml").read_text()
        assert model.slow <= model.bounds.keys()
        assert set(re.findall(r"\bBUG_[A-Z_]+", text)) == model.bugs.keys()
