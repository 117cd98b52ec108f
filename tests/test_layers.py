"""Who may import whom: the contracts in pyproject.toml hold, and the ones that must be there are there."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from importlinter import cli

from annotator.settings import BASE_DIR

MAY_KNOW_DJANGO = {
    "celery",
    "tasks",
    "backtesting",
    "certifying",
    "certifying_rounds",
    "comparing",
    "doubting",
    "embedding",
    "forecasting",
    "grouping",
    "mapping",
    "previews",
    "refitting",
    "sharding",
    "snapshot",
    "studying",
    "suspecting",
    "take_home",
    "training",
    "__init__",
}


def contracts() -> dict[str, dict[str, Any]]:
    tool = tomllib.loads((BASE_DIR / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert tool["root_packages"] == ["annotator", "ml_worker"]
    return {contract["name"]: contract for contract in tool["contracts"]}


def test_every_contract_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(BASE_DIR)
    assert cli.lint_imports(no_cache=True) == cli.EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_the_layers_lie_in_their_order() -> None:
    layers = contracts()["annotator is layered"]["layers"]
    order = [name.strip() for layer in layers for name in layer.split("|")]
    wanted = ["urls", "views", "api", "management", "actions", "access", "queries", "jobs", "models"]
    assert [name for name in order if name in wanted] == wanted
    assert set(order[-2:]) == {"errors", "wording"}
    assert {"task_types", "formats", "algorithms"} <= set(order[order.index("models") + 1 : -1])


@pytest.mark.parametrize(
    ("sources", "forbidden"),
    [
        ({"annotator"}, {"ml_worker", "torch", "torchvision", "timm"}),
        ({"ml_worker"}, {"annotator.views", "annotator.api", "annotator.urls"}),
        ({"ml_worker.acquisition"}, {"torch", "sklearn", "scipy"}),
        (
            {"annotator.task_types", "annotator.formats", "annotator.algorithms", "annotator.errors"},
            {"django", "rest_framework", "celery"},
        ),
        ({"ml_worker.acquisition", "ml_worker.encoders", "ml_worker.heads"}, {"django", "celery", "annotator"}),
    ],
)
def test_what_must_never_be_imported(sources: set[str], forbidden: set[str]) -> None:
    assert any(
        contract["type"] == "forbidden"
        and sources <= set(contract["source_modules"])
        and forbidden <= set(contract["forbidden_modules"])
        for contract in contracts().values()
    )


def test_every_algorithm_of_the_worker_is_under_contract() -> None:
    named = set(contracts()["algorithms know neither Django nor Celery nor the app"]["source_modules"])
    there = {path.stem for path in (BASE_DIR / "ml_worker").iterdir() if path.suffix == ".py" or is_package(path)}
    assert {f"ml_worker.{name}" for name in there - MAY_KNOW_DJANGO} == named


def test_every_module_of_the_web_half_has_its_layer() -> None:
    contract = contracts()["annotator is layered"]
    assert contract["exhaustive"] is True


def test_no_kind_of_plug_in_is_left_out_of_their_contract() -> None:
    modules = set(contracts()["plug-ins do not know each other"]["modules"])
    assert {
        "annotator.task_types.*",
        "ml_worker.acquisition.*",
        "ml_worker.encoders.*",
        "ml_worker.heads.*",
    } <= modules


def is_package(path: Path) -> bool:
    return (path / "__init__.py").exists()
