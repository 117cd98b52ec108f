"""`manage.py simulate`: the keys it promises, the accuracy it reaches, and how it refuses."""

import io
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command

from ml_worker import choosing

POINT = {
    "labels",
    "test_accuracy",
    "test_accuracy_low",
    "test_accuracy_high",
    "pseudo_label_accuracy",
    "auto_accepted",
    "auto_accepted_precision",
    "seconds",
}
RUN = {"acquisition", "head", "trainer", "encoder", "seed", "curve", "gates"}


def simulate(*arguments: Any, **options: Any) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    options.setdefault("processes", 1)
    call_command("simulate", *arguments, stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def test_the_json_has_exactly_the_promised_keys(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    simulate("digits", acquisition="margin,random_sampling", budget=25, seeds=2, json=target)
    result = json.loads(target.read_text())
    assert set(result) == {"source", "n_pool", "n_test", "classes", "runs", "measured_on", "summary"}
    assert (result["source"], result["n_pool"], result["n_test"]) == ("digits", 1597, 200)
    assert result["classes"] == list("0123456789")
    assert [(one["acquisition"], one["seed"]) for one in result["runs"]] == [
        ("margin", 0),
        ("random_sampling", 0),
        ("margin", 1),
        ("random_sampling", 1),
    ]
    for one in result["runs"]:
        assert set(one) == RUN
        assert [point["labels"] for point in one["curve"]] == [10, 20, 25]
        for point in one["curve"]:
            assert set(point) == POINT
            assert point["test_accuracy_low"] <= point["test_accuracy"] <= point["test_accuracy_high"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


@pytest.mark.slow
def test_forty_answers_reach_nine_tenths_on_the_digits_and_a_hundred_reach_95_percent(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    simulate("digits", acquisition="margin,random_sampling", budget=100, seeds=3, json=target)
    runs = json.loads(target.read_text())["runs"]

    def mean_accuracy(acquisition: str, labels: int) -> float:
        return statistics.fmean(
            point["test_accuracy"]
            for one in runs
            for point in one["curve"]
            if one["acquisition"] == acquisition and point["labels"] == labels
        )

    assert mean_accuracy("margin", 40) >= 0.90
    assert mean_accuracy("margin", 100) >= 0.95
    assert mean_accuracy("margin", 100) >= mean_accuracy("random_sampling", 100)


def test_it_prints_a_line_for_each_step_and_a_table_at_the_end() -> None:
    out, err = simulate("digits", budget=20, seeds=1, test_fraction=0.5)
    assert err.splitlines()[-1].startswith("margin, seed 0: 20 answers, test accuracy 0.")
    lines = out.splitlines()
    assert lines[0] == "digits: pool 899, test 898, 10 classes"
    assert [line.split()[0] for line in lines[4:6]] == ["10", "20"]
    assert "baseline" not in out and "random checks" not in lines[1]  # nothing it could be held against
    assert "baseline" in simulate("digits", acquisition="margin,random_sampling", budget=20, seeds=1)[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"acquisition": "guess"}, "there are: margin, least_confidence, "),
        ({"acquisition": " , "}, "names no acquisition function"),
        ({"head": "guess"}, "there are: label_spreading, logistic_regression"),
        ({"encoder": "guess"}, "there are: pca_pixels"),
        ({"trainer": "guess"}, "'guess' is not a known trainer"),
        ({"encoder_parameters": "components"}, "wanted name=value, each name once"),
        ({"encoder_parameters": "components=3,components=4"}, "wanted name=value, each name once"),
        ({"encoder_parameters": "components=0"}, "found '0', wanted a whole number from 2"),
        ({"head_parameters": "minutes=2"}, "minutes: label_spreading has no parameter of this name"),
        ({"trainer_parameters": "threshold=0.5"}, "wants a --trainer"),
        ({"trainer": "auto", "trainer_parameters": "threshold=0.5"}, "wants a --trainer, one by name"),
        ({"train_at": "40,many"}, "wanted numbers of answers"),
        ({"train_at": "400"}, "wanted numbers of answers from 1 to 100"),
        ({"minutes": -1.0}, "wanted more than 0"),
        ({"review": -1}, "wanted 0 or more"),
        ({"budget": 0}, "must each be at least 1"),
        ({"test_fraction": 2.0}, "between 0 and 1"),
        ({"target_precision": 1.0}, "between 0 and 1"),
        ({"json": Path("/nowhere/out.json")}, "wants the name of a file in a folder there is"),
        ({"json": Path("/")}, "wants the name of a file in a folder there is"),
        ({"test": "/nowhere"}, "neither 'digits' nor a folder or zip"),
    ],
)
def test_what_it_does_not_know_gets_one_line(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence) as refused:
        simulate("digits", **options)
    assert "\n" not in str(refused.value)


def test_parameters_named_on_the_command_line_are_used(tmp_path: Path) -> None:
    def last(**options: Any) -> float:
        simulate("digits", budget=30, seeds=1, json=tmp_path / "out.json", **options)
        return float(json.loads((tmp_path / "out.json").read_text())["runs"][0]["curve"][-1]["test_accuracy"])

    usual = last()
    assert last(encoder_parameters=" components = 2 , whitening=1") < usual - 0.2
    assert last(head_parameters="neighbours=1") < usual


@pytest.mark.slow
def test_a_trainer_gets_a_run_of_its_own_beside_the_fast_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "STEPS_AT_MOST", 60)  # a count, so that a busy machine learns as much
    out, err = simulate(
        "digits", budget=40, seeds=1, trainer="auto", minutes=5, train_at="20,40", json=tmp_path / "out.json"
    )
    loop, network = json.loads((tmp_path / "out.json").read_text())["runs"]
    assert set(network) == RUN
    assert (loop["trainer"], network["trainer"]) == ("none", "auto")
    assert [point["labels"] for point in network["curve"]] == [20, 40]
    for point in network["curve"]:
        assert set(point) == POINT
        assert point["test_accuracy"] > 0.3  # a tenth would be chance
        assert point["seconds"] > 0
    assert "margin, network trained by auto" in out
    assert "margin, auto, seed 0: 40 answers" in err


def test_reviewing_class_by_class_does_not_make_the_model_worse(tmp_path: Path) -> None:
    simulate("digits", budget=60, seeds=1, review=10, json=tmp_path / "out.json")
    for one in json.loads((tmp_path / "out.json").read_text())["runs"]:
        answered = {point["labels"]: point["test_accuracy"] for point in one["curve"]}
        reviewed = [accuracy for labels, accuracy in answered.items() if labels > 60]
        assert reviewed
        assert min(reviewed) >= answered[60] - 0.02


@pytest.mark.slow
def test_it_runs_without_a_database(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "simulate", "digits", "--budget", "10", "--seeds", "1"],
        cwd=settings.BASE_DIR,
        env={
            "WINNOW_DATA": str(tmp_path / "data"),
            "SECRET_KEY": "for the tests alone",
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "digits: pool 1597, test 200" in done.stdout
