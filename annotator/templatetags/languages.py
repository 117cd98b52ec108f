"""What a page needs to know of its language."""

import gettext
from functools import lru_cache
from typing import Any

from django import template
from django.conf import settings
from django.utils import translation
from django.utils.html import json_script
from django.utils.safestring import SafeString

register = template.Library()


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
