"""What the pages say of accepting unseen: the panel of the dashboard, and a certificate in words."""

from dataclasses import dataclass
from typing import Any

from annotator.access import OWN, REVIEW, allows
from annotator.actions import certifying
from annotator.actions.certifying import Gate
from annotator.charts import Part
from annotator.models import Certificate, Look, Membership, Project
from annotator.wording import promised

LOOKS_SHOWN = 12


@dataclass(frozen=True)
class LookRow:
    """A look as the table shows it. ``certified``: images it spoke for; ``ended``: why it does no more."""

    look: Look
    certified: int
    ended: str


def panel(membership: Membership) -> dict[str, Any]:
    """The context of templates/certifying.html. Ten queries."""
    project = membership.project
    gate = certifying.gate(project)
    return {
        "gate": gate,
        "bands": bands(gate),
        "promises": [promise(each) for each in gate.certificates],
        "looks": look_rows(project),
        "may_own": allows(membership.role, OWN),
        "may_review": allows(membership.role, REVIEW),
        "target": promised(gate.settings.target_precision),
        "certainty": promised(gate.settings.certificate_confidence),
        "lower": promised(gate.look.preview["target"]) if gate.look and gate.look.preview else "",
        "draw_at_most": certifying.DRAW_AT_MOST,
    }


def bands(gate: Gate) -> list[Part]:
    """The open images of the pool, by what becomes of them."""
    return [
        Part("Accepted unseen", gate.accepted, "accepted"),
        Part("Proposed for review", gate.review, "review"),
        Part("Kept for asking", gate.asking, "open"),
    ]


def promise(certificate: Certificate) -> str:
    """What a certificate says, as a sentence."""
    named = f" as {certificate.label_class.name}" if certificate.label_class else ""
    errors = f"{certificate.errors:,} error{'' if certificate.errors == 1 else 's'}"
    return (
        f"With {promised(certificate.confidence)} confidence at least {promised(certificate.target)} of the"
        f" {certificate.rest:,} images the model is surest of{named} are right: {errors} in {certificate.n:,}"
        f" random checks."
    )


def look_rows(project: Project) -> list[LookRow]:
    """The newest looks, newest first. Two queries."""
    looks = Look.objects.filter(project=project).select_related("model_version").prefetch_related("certificates")
    return [
        LookRow(
            each,
            sum(given.rest for given in each.certificates.all()),
            next((given.ended_why for given in each.certificates.all() if given.ended_at), ""),
        )
        for each in looks[:LOOKS_SHOWN]
    ]
