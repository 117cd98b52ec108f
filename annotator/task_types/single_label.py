"""One class for each image. Value: ``{"class": <id of the LabelClass>}``."""

from collections import Counter
from typing import Any

from annotator.errors import InvalidAnnotation

key = "single_label"
title = "One class for each image"

Value = dict[str, Any]


def clean(raw: Any, class_ids: list[int]) -> Value:
    """The value to store, from ``{"class": id}`` or the bare id. Raises InvalidAnnotation."""
    given = raw.get("class") if isinstance(raw, dict) else raw
    try:
        class_id = int(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InvalidAnnotation(f"{given!r} is not a class id; send the id of one of the project's classes") from None
    if class_id not in class_ids:
        raise InvalidAnnotation(
            f"class {class_id} is not one of this project's {len(class_ids)} open classes; reload the page"
        )
    return {"class": class_id}


def agreement(one: Value, other: Value) -> float:
    """1 when both name the same class, else 0."""
    return float(one["class"] == other["class"])


def consensus(values: list[Value]) -> Value | None:
    """The class most people named; None when nobody answered or the first two are level."""
    ranked = Counter(value["class"] for value in values).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return {"class": ranked[0][0]}


def to_row(value: Value, class_names: dict[int, str]) -> dict[str, Any]:
    """``{"label": name}``; the name is the class's current one."""
    return {"label": class_names[value["class"]]}


def from_row(row: dict[str, Any], class_ids_by_name: dict[str, int]) -> Value | None:
    """The class named in column ``label``; None when it is empty. Raises InvalidAnnotation for an unknown name."""
    name = str(row.get("label") or "").strip()
    if not name:
        return None
    if name not in class_ids_by_name:
        raise InvalidAnnotation(f"label {name!r} is not a class of this project")
    return {"class": class_ids_by_name[name]}


def class_ids(value: Value) -> list[int]:
    """The one class this value names."""
    return [value["class"]]


def with_classes(value: Value, now: dict[int, int]) -> Value:
    """The value with the class that its own was merged into, where it was."""
    return {"class": now.get(value["class"], value["class"])}
