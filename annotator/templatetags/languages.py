"""What a page needs to know of its language."""

import gettext
from functools import lru_cache
from typing import Any

from django import template
from django.conf import settings
from django.utils import translation
from django.utils.html import json_script
from django.utils.safestring import SafeString
from django.utils.translation import gettext_noop

register = template.Library()

# What workers and certificates keep of themselves, word for word: stored in English, translated where it is shown.
STORED = (
    gettext_noop("preparing the pool"),
    gettext_noop("comparing them"),
    gettext_noop("learning the encoder"),
    gettext_noop("finding nearest neighbours"),
    gettext_noop("looking which images there are"),
    gettext_noop("writing the groups down"),
    gettext_noop("waiting for the images to be embedded"),
    gettext_noop("comparing the images with the names of the classes"),
    gettext_noop("loading the model"),
    gettext_noop("starting the processes"),
    gettext_noop("scoring the pool"),
    gettext_noop("comparing with the heads"),
    gettext_noop("reading the list of files"),
    gettext_noop("cancelled before it began"),
    gettext_noop("there are no answered random checks to compare it on"),
    gettext_noop("there is no other model yet"),
    gettext_noop("too few images are open: checking enough of them would leave hardly any to let through"),
    gettext_noop("too many of the random checks so far are wrong even where the model is surest; more answers help"),
    gettext_noop("it was cancelled"),
    gettext_noop("accepting unseen was switched off"),
    gettext_noop("a later look at the random checks took its place"),
)


@register.simple_tag
def script_words() -> SafeString | str:
    """The texts of static/js/words.js in the language of the page, as a block of data; nothing for English."""
    language = translation.get_language() or settings.LANGUAGE_CODE
    if language == settings.LANGUAGE_CODE:
        return ""
    return json_script(_script_words(language), "words")


@register.simple_tag
def languages() -> list[tuple[str, str]]:
    """The languages there are: code and own name."""
    return list(settings.LANGUAGES)


@register.filter
def translated(text: str | None) -> str:
    """A text that is not written in the template: of the catalogue, or one of few that are stored."""
    return translation.gettext(text) if text else ""


@lru_cache
def _script_words(language: str) -> dict[str, Any]:
    """``texts``: by English text its translation, or all its forms where it counts something; ``plurals``: which of
    them 0 to 199 take, a digit each."""
    found = gettext.translation("djangojs", str(settings.LOCALE_PATHS[0]), [language], fallback=True)
    texts: dict[str, Any] = {}
    for key, said in getattr(found, "_catalog", {}).items():
        if isinstance(key, tuple):
            forms = texts.setdefault(key[0], [])
            forms.extend([""] * (key[1] + 1 - len(forms)))
            forms[key[1]] = said
        elif key:
            texts[key] = said
    return {"texts": texts, "plurals": "".join(str(_plural(found, n)) for n in range(200))}


def _plural(found: gettext.NullTranslations, n: int) -> int:
    plural = getattr(found, "plural", None)
    return int(plural(n)) if plural else int(n != 1)
