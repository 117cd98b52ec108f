"""What a line of the catalogue says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """One setting of an algorithm.

    A number (`type` int or float) lies within [minimum, maximum]. Text (`type` str) is one of `choices`, or, where
    there are none, one line of at most 200 characters.
    """

    name: str
    type: type
    default: int | float | str
    minimum: int | float = 0
    maximum: int | float = 0
    unit: str = ""
    help: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Algorithm:
    """One line of the catalogue. help: one sentence for people. source: where the method was published.

    deterministic: the same input gives the same result, whatever the seed. by_views: a head that goes by embeddings of
    distorted looks at the images, where there are any. starts: an acquisition function that needs no model.
    """

    kind: str
    name: str
    title: str
    help: str
    source: str
    parameters: tuple[Parameter, ...] = ()
    deterministic: bool = False
    by_views: bool = False
    starts: bool = False
