"""The one thing to do now."""

from dataclasses import dataclass

from django.urls import reverse
from django.utils.translation import gettext as _

from annotator.access import LABEL, OWN, REVIEW, VIEW, allows
from annotator.models import Job, Project, Role
from annotator.wording import thousands, within

# A screenful of proposals is worth a reviewer's turn; fewer can wait while people go on labelling.
REVIEW_ENOUGH = 24


@dataclass(frozen=True)
class Standing:
    """What decides the next step. ``items`` and ``answered`` count what people are asked: pool and audit.
    ``accepted``: what is accepted unseen, and so not asked about."""

    items: int
    answered: int
    pending: int
    classes: int
    importing: Job | None = None
    accepted: int = 0

    @property
    def open(self) -> int:
        return self.items - self.answered - self.accepted


@dataclass(frozen=True)
class NextStep:
    """``url`` is empty when this person's role does not include it."""

    title: str
    why: str
    button: str = ""
    url: str = ""


def next_step(project: Project, role: str, standing: Standing) -> NextStep:
    """What moves the project on, whoever does it; the button is there for those who may."""

    def step(title: str, why: str, button: str, view: str, needed: Role) -> NextStep:
        if allows(role, needed):
            return NextStep(title, why, button, reverse(view, args=[project.pk]))
        needs = _("This needs the role %(role)s.") % {"role": within(str(needed.label))}
        return NextStep(title, f"{why} {needs}")

    if not standing.items and standing.importing:
        return NextStep(
            _("Images are being imported"),
            _("They can be labelled as soon as the import is done."),
            _("Watch the import"),
            reverse("job", args=[project.pk, standing.importing.pk]),
        )
    if not standing.items:
        return step(_("Import images"), _("The project has no images yet."), _("Import images"), "import", OWN)
    if not standing.classes:
        return step(_("Add classes"), _("Say what an image can be."), _("Add classes"), "project-settings", OWN)
    worth_it = standing.pending >= REVIEW_ENOUGH or (standing.pending and not standing.open)
    is_reviewed_next = worth_it and (allows(role, REVIEW) or not standing.open)
    if not standing.answered and not is_reviewed_next:
        why = _("%(n)s images wait. The model learns after every %(answers)s answers.") % {
            "n": thousands(standing.items),
            "answers": project.settings.answers_per_refit,
        }
        return step(_("Label the first image"), why, _("Start labelling"), "label", LABEL)
    if is_reviewed_next:
        why = _("The model proposes labels for %(n)s images. Checking a grid is faster than labelling.") % {
            "n": thousands(standing.pending)
        }
        return step(_("Review proposals"), why, _("Review proposals"), "review", REVIEW)
    if standing.open:
        why = _("%(open)s of %(items)s images have no answer yet.") % {
            "open": thousands(standing.open),
            "items": thousands(standing.items),
        }
        return step(_("Keep labelling"), why, _("Keep labelling"), "label", LABEL)
    why = _("Every image has an answer.")
    if standing.accepted:
        why = _("Every image has an answer, %(n)s of them unseen.") % {"n": thousands(standing.accepted)}
    return step(_("Export the labels"), why, _("Export"), "export", VIEW)
