"""The catalogue and the files behind it say the same."""

import inspect
from pathlib import Path

import pytest

from annotator import algorithms
from annotator.algorithms import CATALOGUE, DEFAULTS, KINDS, Algorithm, Parameter, catalogue, clean_parameters, get
from annotator.errors import InvalidSettings
from annotator.models import ProjectSettings
from ml_worker import acquisition, encoders, heads

PACKAGES = {"encoder": encoders, "head": heads, "acquisition": acquisition}


def title(algorithm: Algorithm) -> str:
    return f"{algorithm.kind}-{algorithm.name}"


@pytest.mark.parametrize("kind", PACKAGES)
def test_every_name_is_a_file_and_every_file_a_name(kind: str) -> None:
    folder = Path(str(PACKAGES[kind].__file__)).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files == {algorithm.name for algorithm in catalogue(kind)}


@pytest.mark.parametrize("algorithm", [a for a in CATALOGUE if a.kind in ("encoder", "head")], ids=title)
def test_parameters_are_those_of_the_class_and_have_no_second_default(algorithm: Algorithm) -> None:
    taken = inspect.signature(PACKAGES[algorithm.kind].load(algorithm.name)).parameters.values()
    own = [parameter for parameter in taken if parameter.name not in ("n_classes", "seed")]
    assert [parameter.name for parameter in own] == [parameter.name for parameter in algorithm.parameters]
    assert all(parameter.default is inspect.Parameter.empty for parameter in own)


@pytest.mark.parametrize("algorithm", catalogue("acquisition"), ids=title)
def test_acquisition_functions_take_a_pool_a_budget_and_a_generator(algorithm: Algorithm) -> None:
    taken = inspect.signature(acquisition.load(algorithm.name)).parameters
    assert list(taken) == ["pool", "budget", "rng"]
    assert algorithm.parameters == ()


@pytest.mark.parametrize("algorithm", CATALOGUE, ids=title)
def test_every_algorithm_is_explained_and_its_defaults_are_allowed(algorithm: Algorithm) -> None:
    assert algorithm.kind in KINDS
    assert algorithm.title and algorithm.help.endswith(".")
    given = clean_parameters(algorithm.kind, algorithm.name, {})
    assert given == {parameter.name: parameter.default for parameter in algorithm.parameters}
    for parameter in algorithm.parameters:
        assert type(given[parameter.name]) is parameter.type
        assert parameter.help.endswith(".")


def test_the_worker_and_the_settings_agree_on_what_can_open_a_project() -> None:
    assert {algorithm.name for algorithm in catalogue("acquisition", starts=True)} == acquisition.STARTERS
    with pytest.raises(InvalidSettings, match="'margin' is not one of typiclust, probcover, random_sampling"):
        ProjectSettings.clean({"cold_start": "margin"})


def test_names_are_unique_within_a_kind_and_the_defaults_exist() -> None:
    assert len({(a.kind, a.name) for a in CATALOGUE}) == len(CATALOGUE)
    for kind, name in DEFAULTS.items():
        assert get(kind, name).name == name


def test_an_unknown_name_is_answered_with_the_choices() -> None:
    with pytest.raises(InvalidSettings, match="label_spreading, logistic_regression") as refused:
        get("head", "crystal_ball")
    assert "head" in refused.value.fields
    with pytest.raises(InvalidSettings, match="is not a kind of algorithm"):
        algorithms.catalogue("crystal_ball")


def test_parameters_from_a_form_are_strings_and_empty_means_default() -> None:
    assert clean_parameters("head", "label_spreading", {"neighbours": "7", "alpha": ""}) == {
        "neighbours": 7,
        "alpha": 0.95,
    }


@pytest.mark.parametrize("value", ["many", "0", "21", "2.5", "nan", "inf", True, [3], {}, "1e999"])
def test_a_value_out_of_range_or_of_another_type_is_refused_with_the_range(value: object) -> None:
    with pytest.raises(InvalidSettings, match="wanted a whole number from 1 to 20") as refused:
        clean_parameters("head", "label_spreading", {"neighbours": value})
    assert list(refused.value.fields) == ["neighbours"]


def test_a_parameter_nobody_knows_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="no parameter of this name"):
        clean_parameters("head", "label_spreading", {"depth": 3})


CHOICE = Parameter("mood", str, "calm", help="How it feels.", choices=("calm", "brisk"))
FREE = Parameter("model", str, "name", help="Which one.")


def test_a_parameter_that_is_text_is_one_of_its_choices() -> None:
    assert algorithms._clean(CHOICE, " brisk ") == "brisk"
    for wrong in ("Calm", "", 3, None):
        with pytest.raises(ValueError, match="wanted one of: calm, brisk"):
            algorithms._clean(CHOICE, wrong)


def test_a_parameter_that_is_free_text_is_one_printable_line() -> None:
    assert algorithms._clean(FREE, " facebook/dinov2-small\n") == "facebook/dinov2-small"
    for wrong in ("a\nb", "a\0b", "a" * 201, 3, ["a"]):
        with pytest.raises(ValueError, match="wanted one line of at most 200 characters"):
            algorithms._clean(FREE, wrong)
