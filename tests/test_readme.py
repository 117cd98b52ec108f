"""What the README says is there."""

import re
from dataclasses import MISSING, Field, fields
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class

from annotator.models import ProjectSettings
from annotator.settings import BASE_DIR

README = (BASE_DIR / "README.md").read_text()
PATHS = re.findall(r"[`(]((?:annotator|ml_worker|docs|benchmarks|static)/[\w./]*)", README)


def setting_row(each: Field[Any]) -> str:
    """The row of the README's table for one field of the project settings."""
    limits = each.metadata
    default = each.default if each.default_factory is MISSING else each.default_factory()
    value = ("on" if default else "off") if each.type is bool else f"`{default}`"
    bounds = f" {limits['minimum']:g} to {limits['maximum']:g}." if limits.get("minimum") is not None else ""
    return f"| {limits['title']} (`{each.name}`) | {value} | {limits['help']}{bounds} |"


def test_every_project_setting_is_explained_and_no_other() -> None:
    rows = [line for line in README.splitlines() if re.match(r"\| .* \(`[a-z_]+`\) \|", line)]
    assert rows == [setting_row(each) for each in fields(ProjectSettings)]


def test_every_variable_is_named() -> None:
    documented = re.findall(r"^\| `([A-Z_0-9]+)` \|", (BASE_DIR / "docs" / "settings.md").read_text(), re.MULTILINE)
    section = README[README.index("## Settings") : README.index("## For a team")]
    assert re.findall(r"`([A-Z][A-Z_0-9]+)`", section) == documented


def test_every_command_and_option_is_real() -> None:
    ours = {name for name, app in get_commands().items() if app == "annotator"}
    rows = re.findall(r"^\| `manage\.py (\w+)(.*)", README, re.MULTILINE)
    assert {name for name, _ in rows} == ours
    for name, rest in rows:
        known = load_command_class("annotator", name).create_parser("manage.py", name).format_help()
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in known or option == "--help", f"{name} has no {option}"


@pytest.mark.parametrize("path", sorted(set(PATHS)))
def test_every_file_and_folder_it_names_exists(path: str) -> None:
    assert (BASE_DIR / path).exists()
