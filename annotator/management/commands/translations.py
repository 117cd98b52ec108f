"""Collect the texts of pages and scripts, and keep the translations in step with them."""

import io
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from babel.messages.catalog import Catalog
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils.translation.template import templatize

from annotator import algorithms
from annotator.models import ProjectSettings

# What marks a text, beside Python's own functions; the numbers say which arguments are texts.
KEYWORDS: Any = {
    **DEFAULT_KEYWORDS,
    "gettext_lazy": None,
    "gettext_noop": None,
    "ngettext_lazy": (1, 2),
    "pgettext_lazy": ((1, "c"), 2),
}
# The pages' texts, and those of the scripts, which travel with each page.
DOMAINS = ("django", "djangojs")
# The same texts give the same file, whenever it is made.
SOME_DAY = datetime(2026, 1, 1, tzinfo=UTC)


class Command(BaseCommand):
    help = "Brings annotator/locale in step with the texts in the code; --check only says whether it is."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--check", action="store_true", help="change nothing; fail where something is missing")

    def handle(self, *args: Any, check: bool, **options: Any) -> None:
        faults = [fault for language, domain in _catalogs() for fault in _bring_in_step(language, domain, not check)]
        for fault in faults:
            self.stdout.write(fault)
        if faults:
            raise CommandError(f"{len(faults)} texts need a translator; edit the .po files named above")
        self.stdout.write("Every text is translated.")


def _catalogs() -> Iterator[tuple[str, str]]:
    for language, _ in settings.LANGUAGES:
        if language != settings.LANGUAGE_CODE:
            yield from ((language, domain) for domain in DOMAINS)


def _bring_in_step(language: str, domain: str, is_written: bool) -> list[str]:
    """What is wrong with one .po file once the texts of now are in it. Written with its .mo where that is wanted."""
    path = settings.LOCALE_PATHS[0] / language / "LC_MESSAGES" / f"{domain}.po"
    stored = path.read_bytes() if path.exists() else b""
    found = read_po(io.BytesIO(stored), locale=language)
    found.update(collected(domain), no_fuzzy_matching=True)
    found.obsolete.clear()
    # As the next one will read it: updating leaves traces that writing does not.
    written = _written(found)
    found = read_po(io.BytesIO(written), locale=language)
    found.creation_date = found.revision_date = SOME_DAY
    compiled = io.BytesIO()
    write_mo(compiled, found)
    if is_written:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(written)
        path.with_suffix(".mo").write_bytes(compiled.getvalue())
    where = path.relative_to(settings.BASE_DIR)
    faults = [f"{where}: not translated: {message.id!r}" for message in found if message.id and not _is_done(message)]
    faults += [f"{where}: {error} in {message.id!r}" for message, error in _errors(found, domain)]
    if not is_written and stored != written:
        faults.append(f"{where}: not in step with the texts in the code; run manage.py translations")
    elif not is_written and path.with_suffix(".mo").read_bytes() != compiled.getvalue():
        faults.append(f"{where}: its .mo file is another one's; run manage.py translations")
    return faults


def _errors(catalog: Catalog, domain: str) -> Iterator[tuple[Any, str]]:
    """What would break a sentence where it is filled in. Scripts know no other placeholder than ``%(name)s``."""
    if domain == "django":
        yield from ((message, str(error)) for message, errors in catalog.check() for error in errors)
        return
    for message in catalog:
        wanted, said = (set(re.findall(r"%\((\w+)\)s", str(text))) for text in (message.id, message.string))
        if message.id and _is_done(message) and wanted != said:
            yield message, f"placeholders {', '.join(sorted(wanted ^ said))} are in one of the two alone,"


def _is_done(message: Any) -> bool:
    said = message.string if isinstance(message.string, (tuple, list)) else (message.string,)
    return all(said) and not message.fuzzy


def _written(catalog: Catalog) -> bytes:
    out = io.BytesIO()
    # Without places and dates: what did not change reads the same, whoever moved lines in the code.
    write_po(out, catalog, width=110, no_location=True, omit_header=False, sort_output=True)
    stamps = (b'"POT-Creation-Date', b'"PO-Revision-Date', b'"Last-Translator', b'"Generated-By', b'"Language-Team')
    lines = out.getvalue().splitlines(keepends=True)
    return b"".join(line for line in lines if not line.startswith((*stamps, b"#")) or line.startswith(b"#, "))


def collected(domain: str) -> Catalog:
    """Every marked text: of Python, the templates and what the catalogue says; or of the scripts."""
    texts = Catalog(charset="utf-8")
    for text, context in _of_scripts() if domain == "djangojs" else _of_pages():
        texts.add(text, context=context)
    return texts


def _of_scripts() -> Iterator[tuple[Any, str | None]]:
    for path in sorted((settings.BASE_DIR / "static" / "js").glob("*.js")):
        yield from _marked(path, "javascript", path.read_bytes())


def _of_pages() -> Iterator[tuple[Any, str | None]]:
    for path in sorted((settings.BASE_DIR / "templates").rglob("*.html")):
        # Lines begin anywhere in a template, and nowhere else in what is read as Python.
        lines = templatize(path.read_text(), origin=str(path)).splitlines()
        yield from _marked(path, "python", "\n".join(line.strip() for line in lines).encode())
    for path in sorted((settings.BASE_DIR / "annotator").rglob("*.py")):
        yield from _marked(path, "python", path.read_bytes())
    for text in _of_catalogue():
        yield text, None


def _marked(path: Path, language: str, source: bytes) -> Iterator[tuple[Any, str | None]]:
    try:
        for _, text, _, context in extract(language, io.BytesIO(source), keywords=KEYWORDS):
            yield text, context
    except (SyntaxError, ValueError) as error:
        raise CommandError(f"{path}: {error}") from error


def _of_catalogue() -> Iterator[str]:
    """What is shown of the algorithms and the settings: plain data, translated where it is shown."""
    for algorithm in algorithms.CATALOGUE:
        yield from (algorithm.title, algorithm.help)
        for parameter in algorithm.parameters:
            yield parameter.name.replace("_", " ").capitalize()
            yield from (text for text in (parameter.help, parameter.unit) if text)
    for each in fields(ProjectSettings):
        yield from (each.metadata[name] for name in ("title", "help", "auto") if each.metadata.get(name))
