"""The catalogue: every encoder, head, acquisition function and trainer by name, with its parameters.

Plain data. Defaults live only here: forms, the API, job validation and the commands are built from it, and
the classes and functions behind the names take their parameters without defaults. A name is the name of a
file: the head `label_spreading` is `ml_worker/heads/label_spreading.py`. Nothing has to be imported to be
listed.
"""

import math
from collections.abc import Mapping
from typing import Any

from annotator.algorithms.acquisition import ACQUISITION
from annotator.algorithms.encoders import ENCODERS
from annotator.algorithms.entries import Algorithm as Algorithm
from annotator.algorithms.entries import Parameter as Parameter
from annotator.algorithms.heads import HEADS
from annotator.algorithms.trainers import TRAINERS
from annotator.errors import InvalidSettings

KINDS = ("encoder", "head", "acquisition", "trainer")
MAX_TEXT = 200  # characters of a parameter that is free text

CATALOGUE = (*ENCODERS, *HEADS, *ACQUISITION, *TRAINERS)

DEFAULTS = {"encoder": "pca_pixels", "head": "label_spreading", "acquisition": "margin"}


def catalogue(kind: str, starts: bool = False) -> tuple[Algorithm, ...]:
    """The algorithms of one kind, in the order to show them; starts: only those that need no model."""
    if kind not in KINDS:
        raise InvalidSettings(f"{kind!r} is not a kind of algorithm; choose from {', '.join(KINDS)}")
    return tuple(algorithm for algorithm in CATALOGUE if algorithm.kind == kind and algorithm.starts >= starts)


def get(kind: str, name: str) -> Algorithm:
    """The algorithm of this kind and name. Raises InvalidSettings naming the ones there are."""
    for algorithm in catalogue(kind):
        if algorithm.name == name:
            return algorithm
    names = ", ".join(algorithm.name for algorithm in catalogue(kind)) or "none yet"
    name = name if len(name) <= 60 else f"{name[:60]}..."
    raise InvalidSettings(f"{name!r} is not a known {kind}; there are: {names}", fields={kind: f"one of: {names}"})


def clean_parameters(kind: str, name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of an algorithm, taken from `raw` or by default, of the right type and within range.

    raw may hold strings, as a form sends them; an empty string means the default. Raises InvalidSettings with
    a sentence per field.
    """
    algorithm = get(kind, name)
    known = {parameter.name: parameter for parameter in algorithm.parameters}
    wrong = {key: f"{name} has no parameter of this name" for key in raw if key not in known}
    clean: dict[str, Any] = {}
    for parameter in algorithm.parameters:
        value = raw.get(parameter.name, parameter.default)
        try:
            clean[parameter.name] = _clean(parameter, parameter.default if value in ("", None) else value)
        except ValueError as error:
            wrong[parameter.name] = str(error)
    if wrong:
        sentences = "; ".join(f"{key}: {sentence}" for key, sentence in wrong.items())
        raise InvalidSettings(f"{algorithm.title}: {sentences}", fields=wrong)
    return clean


def _clean(parameter: Parameter, value: Any) -> int | float | str:
    if parameter.type is str:
        return _clean_text(parameter, value)
    kind = "a whole number" if parameter.type is int else "a number"
    span = f"wanted {kind} from {parameter.minimum} to {parameter.maximum}"
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not parameter.minimum <= number <= parameter.maximum:
        raise ValueError(f"found {value!r}, {span}")
    if parameter.type is int and not number.is_integer():
        raise ValueError(f"found {value!r}, {span}")
    return int(number) if parameter.type is int else number


def _clean_text(parameter: Parameter, value: Any) -> str:
    text = value.strip() if isinstance(value, str) else None
    if parameter.choices and text not in parameter.choices:
        raise ValueError(f"found {value!r}, wanted one of: {', '.join(parameter.choices)}")
    if text is None or len(text) > MAX_TEXT or not text.isprintable():
        raise ValueError(f"found {str(value)[:40]!r}, wanted one line of at most {MAX_TEXT} characters")
    return text
