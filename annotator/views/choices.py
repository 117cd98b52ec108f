"""What the labelling and the review page share: the keys of classes, and which pictures are tiny."""

from collections.abc import Iterable
from dataclasses import dataclass

from annotator.models import Item, LabelClass

# Pictures up to this size are enlarged with hard pixel edges.
TINY_PX = 64
# Given out in this order to classes without a key of their own; the hand stays near the number row.
SPARE_KEYS = "123456789qwertyuiopdfghjklcvbnm"


@dataclass(frozen=True)
class Choice:
    """One class as a button. ``key`` is empty when no key chooses it."""

    class_id: int
    name: str
    colour: str
    key: str
    description: str


def choices_of(classes: list[LabelClass], page_keys: Iterable[str]) -> list[Choice]:
    """The classes with the key that chooses each: its own shortcut, else the digit of its position, else a letter.

    No two classes share a key and none takes one of ``page_keys``; a class for which nothing is left has no key.
    Letters count without case, because caps lock would otherwise choose another class.
    """
    taken = {key.lower() for key in page_keys}
    keys: dict[int, str] = {}
    # Shortcuts first: somebody chose them. Then positions, so that a digit means the same place on every page.
    wanted = [(each.pk, each.shortcut.lower()) for each in classes]
    wanted += [(each.pk, digit) for each, digit in zip(classes, SPARE_KEYS[:9], strict=False)]
    wanted += [(each.pk, key) for each in classes for key in SPARE_KEYS]
    for class_id, key in wanted:
        if key and key not in taken and class_id not in keys:
            keys[class_id] = key
            taken.add(key)
    return [Choice(each.pk, each.name, each.colour, keys.get(each.pk, ""), each.description) for each in classes]


def is_tiny(item: Item) -> bool:
    """Whether the picture is so small that enlarging it smoothly would only blur it."""
    return max(item.width, item.height) <= TINY_PX
