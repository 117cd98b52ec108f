"""What a job was asked and what came of it, in words: the keys of its parameters and result never reach a page."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from django.template.defaultfilters import filesizeformat
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from annotator.models import Job, LabelClass
from annotator.views.model_facts import title_of
from annotator.wording import percent, promised, thousands

Says = Callable[[Any], str]


def _yes_no(value: Any) -> str:
    return _("yes") if value else _("no")


def _titles(kind: str) -> Says:
    """Names of the catalogue as their titles."""
    return lambda names: ", ".join(title_of(kind, name) for name in names)


def _title(kind: str) -> Says:
    return lambda name: title_of(kind, name)


def _trainer(name: str) -> str:
    return _("Automatic") if name == "auto" else title_of("trainer", name)


def _encoder(name: str) -> str:
    return _("The trained network") if name == "trained" else title_of("encoder", name)


def _minutes(minutes: float) -> str:
    return _("%(minutes)s min") % {"minutes": f"{minutes:g}"}


def _labels(wish: str) -> str:
    return {"none": _("none"), "from-folders": _("from folders"), "table": _("from a table")}.get(wish, "")


def _file_name(path: Any) -> str:
    """The folders of the server are nobody's business."""
    return Path(str(path)).name


def _uploads(uploads: list[Mapping[str, Any]]) -> str:
    if len(uploads) == 1:
        return str(uploads[0]["name"])
    said = _("%(name)s and %(n)s more")
    return said % {"name": uploads[0]["name"], "n": thousands(len(uploads) - 1)} if uploads else ""


def _source(source: str) -> str:
    return {"answers": _("the answers of this project"), "digits": _("the bundled digits")}.get(source, "")


def _many_promised(rates: list[float]) -> str:
    return ", ".join(promised(rate) for rate in rates)


def _whole(value: Any) -> str:
    return thousands(value) if isinstance(value, int | float) else ""


# Key -> what it is called and how its value is said. What is not here is a note that jobs keep for themselves.
ASKED: dict[str, tuple[Any, Says]] = {
    "uploads": (gettext_lazy("Files"), _uploads),
    "from_folder": (gettext_lazy("From"), str),
    "count": (gettext_lazy("Files"), _whole),
    "path": (gettext_lazy("From"), _file_name),
    "labels": (gettext_lazy("Labels"), _labels),
    "table": (gettext_lazy("Table of labels"), lambda table: str(table["name"])),
    "table_path": (gettext_lazy("Table of labels"), _file_name),
    "afresh": (gettext_lazy("Every image anew"), _yes_no),
    "trainer": (gettext_lazy("Trainer"), _trainer),
    "minutes": (gettext_lazy("Time it may take"), _minutes),
    "also": (gettext_lazy("At a cost, also"), _titles("encoder")),
    "distil": (gettext_lazy("With a small network"), _yes_no),
    "source": (gettext_lazy("Run on"), _source),
    "acquisition": (gettext_lazy("Orders of questions"), _titles("acquisition")),
    "head": (gettext_lazy("Heads"), _titles("head")),
    "target_precision": (gettext_lazy("Precision promised"), _many_promised),
    "confidence": (gettext_lazy("Certainty"), promised),
    "threshold_per_class": (gettext_lazy("A threshold for each class"), _yes_no),
    "budget": (gettext_lazy("Answers per run"), _whole),
    "seeds": (gettext_lazy("Runs of each"), _whole),
}
CAME_OF_IT: dict[str, tuple[Any, Says]] = {
    "files": (gettext_lazy("Files read"), _whole),
    "imported": (gettext_lazy("Imported"), _whole),
    "duplicates": (gettext_lazy("Already there"), _whole),
    "refused_count": (gettext_lazy("Refused"), _whole),
    "ignored_count": (gettext_lazy("System files left out"), _whole),
    "labels": (gettext_lazy("Labels"), _whole),
    "new_labels": (gettext_lazy("New labels"), _whole),
    "unlabelled_count": (gettext_lazy("Labels not taken"), _whole),
    "merged_count": (gettext_lazy("Labels of another spelling"), _whole),
    "n": (gettext_lazy("Images"), _whole),
    "image_px": (gettext_lazy("Looked at in"), lambda px: _("%(px)s px") % {"px": px}),
    "encoder": (gettext_lazy("Encoder"), _encoder),
    "unreadable": (gettext_lazy("Could not be read"), _whole),
    "views": (gettext_lazy("Views of each image"), _whole),
    "mirrored": (gettext_lazy("Views mirrored too"), _yes_no),
    "trainer": (gettext_lazy("Trainer chosen"), _trainer),
    "steps": (gettext_lazy("Steps"), _whole),
    "seconds": (gettext_lazy("Trained for"), lambda seconds: _minutes(round(seconds / 60, 1))),
    "label_count": (gettext_lazy("Answers looked at"), _whole),
    "model": (gettext_lazy("Model"), lambda number: str(number)),
    "distilled": (gettext_lazy("With a small network"), _yes_no),
    "agreement": (gettext_lazy("It agrees with the large one on"), percent),
    "bytes": (gettext_lazy("Size"), filesizeformat),
    "images": (gettext_lazy("Images"), _whole),
    "groups": (gettext_lazy("Groups"), _whole),
    "without_vector": (gettext_lazy("Not embedded yet"), _whole),
    "laid_out": (gettext_lazy("Arranged among each other"), _whole),
}
# Said only where there are some.
NOT_NONE = {"ignored_count", "new_labels", "unlabelled_count", "merged_count", "unreadable", "without_vector", "also"}


def facts(job: Job) -> list[tuple[str, str]]:
    """Title and value of everything a reader may want to know, the wish before what came of it. No query for most."""
    rows = []
    for words, values in ((ASKED, job.parameters), (CAME_OF_IT, job.result)):
        for name, (title, says) in words.items():
            value = values.get(name)
            if value is None or (name in NOT_NONE and not value):
                continue
            if said := says(value):
                rows.append((str(title), said))
    if job.kind == Job.Kind.GROUP:
        rows.insert(0, (_("Grouped"), _grouped(job)))
    return rows


def _grouped(job: Job) -> str:
    of = str(job.parameters.get("of", ""))
    kind, _separator, raw = of.partition(":")
    if kind == "class":
        named = LabelClass.objects.filter(project=job.project_id, pk=int(raw) if raw.isdigit() else 0).first()
        return _("images of the class %(name)s") % {"name": named.name if named else "?"}
    return _("images that fit no class") if of == "none_of_these" else _("open images")
