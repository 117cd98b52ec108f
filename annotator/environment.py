"""Reading settings from the environment. A variable that is set but blank counts as not set.

Whatever cannot be used raises InvalidEnvironment: one sentence that names the variable and says what it must be.
Values are shown only where they cannot be secret.
"""

import os
from pathlib import Path

WORDS_FOR_TRUE = {"1", "true", "yes", "on"}
WORDS_FOR_FALSE = {"0", "false", "no", "off"}


class InvalidEnvironment(Exception):
    """An environment variable that cannot be used; the message is one sentence for the person who set it."""


def text(name: str, default: str = "") -> str:
    """The value without the space around it."""
    return os.environ.get(name, "").strip() or default


def flag(name: str, default: bool) -> bool:
    given = text(name).lower()
    if not given:
        return default
    if given not in WORDS_FOR_TRUE | WORDS_FOR_FALSE:
        raise InvalidEnvironment(f"{name} must be true or false, not {given!r}")
    return given in WORDS_FOR_TRUE


def number(name: str, default: int, low: int, high: int) -> int:
    given = text(name, str(default))
    if not (given.isascii() and given.isdigit() and low <= int(given) <= high):
        raise InvalidEnvironment(f"{name} must be a whole number from {low} to {high}, not {given!r}")
    return int(given)


def words(name: str, default: list[str]) -> list[str]:
    """Values with commas between them."""
    return [word for part in text(name).split(",") if (word := part.strip())] or default


def folder(name: str, default: Path) -> Path:
    """An absolute path without links, whether or not it exists. A relative one begins where the command is run.

    Without links, because PostgreSQL's folder and socket are told apart by their paths.
    """
    given = text(name)
    try:
        return (Path(given).expanduser() if given else default).resolve()
    except RuntimeError as error:
        raise InvalidEnvironment(f"{name} is {given!r}, but there is no such home folder") from error


def url(name: str, schemes: tuple[str, ...], default: str = "") -> str:
    """An address that begins with one of these schemes. Not shown when wrong: a password may be part of it."""
    given = text(name, default)
    if given and not given.startswith(tuple(f"{scheme}://" for scheme in schemes)):
        raise InvalidEnvironment(f"{name} must begin with {_or([f'{scheme}://' for scheme in schemes])}")
    return given


def needs(name: str, *others: str) -> None:
    """Refuse the variable `name` without the others."""
    if text(name) and (missing := [other for other in others if not text(other)]):
        raise InvalidEnvironment(f"{name} is set without {_or(missing)}; set both, or neither")


def _or(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
