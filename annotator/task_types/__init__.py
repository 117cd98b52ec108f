"""What a kind of annotation must offer, and the kinds there are.

A task type is one module here with the attributes of ``TaskType``; its name is the key stored in
``Project.task_type``. Adding one: a file, its import and its name in the tuple below, a template of the same name.
"""

from typing import Any, Protocol

from annotator.errors import InvalidSettings
from annotator.task_types import single_label

Value = dict[str, Any]


class TaskType(Protocol):
    """Values are JSON objects whose shape only the task type knows. Class ids are primary keys of LabelClass."""

    key: str
    title: str

    def clean(self, raw: Any, class_ids: list[int]) -> Value:
        """The value to store. Raises InvalidAnnotation naming what was wrong."""
        ...

    def agreement(self, one: Value, other: Value) -> float:
        """How far two people agree, 0..1."""
        ...

    def consensus(self, values: list[Value]) -> Value | None:
        """What a group of answers settles on, or None when they do not."""
        ...

    def to_row(self, value: Value, class_names: dict[int, str]) -> dict[str, Any]:
        """The columns this value takes in an exported row."""
        ...

    def from_row(self, row: dict[str, Any], class_ids_by_name: dict[str, int]) -> Value | None:
        """The value in an imported row, or None when the row carries no label."""
        ...

    def class_ids(self, value: Value) -> list[int]:
        """The classes this value names: for counts by class and for training targets."""
        ...

    def with_classes(self, value: Value, now: dict[int, int]) -> Value:
        """The value with other classes in the place of some: class id -> the id it is to name instead."""
        ...


TASK_TYPES: dict[str, TaskType] = {module.key: module for module in (single_label,)}


def get(key: str) -> TaskType:
    """The task type of this key. Raises InvalidSettings with the keys there are."""
    if key not in TASK_TYPES:
        raise InvalidSettings(f"task type {key!r} is not one of {', '.join(sorted(TASK_TYPES))}")
    return TASK_TYPES[key]
