"""The tables, in the order of the loop."""

from annotator.models.certificates import Certificate, Look, Round, RoundCheck
from annotator.models.items import ClassExample, Item, Split
from annotator.models.labels import Annotation, AuditEvent, Flag, Proposal, QueueEntry
from annotator.models.project_settings import ProjectSettings
from annotator.models.projects import LabelClass, Membership, Project, Role
from annotator.models.scoring import ScoringShard
from annotator.models.suspects import Suspect
from annotator.models.tokens import ApiToken
from annotator.models.work import Job, ModelVersion

__all__ = [
    "Annotation",
    "ApiToken",
    "AuditEvent",
    "Certificate",
    "ClassExample",
    "Flag",
    "Item",
    "Job",
    "LabelClass",
    "Look",
    "Membership",
    "ModelVersion",
    "Project",
    "ProjectSettings",
    "Proposal",
    "QueueEntry",
    "Role",
    "Round",
    "RoundCheck",
    "ScoringShard",
    "Split",
    "Suspect",
]
