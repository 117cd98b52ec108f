"""What is accepted without a look: only under a certificate, only while it holds, and always behind what people say.

The worker looks at the random checks (ml_worker/certifying.py); here is what follows from it. At any time the
certificates of one look count: a later one that certifies anything takes the place of all before it, because what an
earlier one had accepted beyond the new region is a part of its own in which its errors may have gathered. What a
certification round (rounds.py) promised stands beside it: the images of the two are never the same.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator import jobs
from annotator.actions import queueing
from annotator.actions.class_changes import merged_into
from annotator.actions.proposing import lock_proposals
from annotator.errors import Conflict, InvalidSettings
from annotator.models import (
    Annotation,
    AuditEvent,
    Certificate,
    ClassExample,
    Item,
    Job,
    Look,
    Project,
    ProjectSettings,
    Proposal,
    QueueEntry,
    Round,
    RoundCheck,
    Split,
)
from annotator.wording import in_english, percent, promised, thousands

GIVEN_BACK = "gave unseen labels back"
DRAW_AT_MOST = 10_000


@dataclass(frozen=True)
class Unseen:
    """Predictions for images nobody looked at, in three lists of one length; confidence is the model's own, 0..1."""

    item_ids: list[int] = field(default_factory=list)
    class_ids: list[int] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)


def standing_certificates(project: Project) -> QuerySet[Certificate]:
    """Those that hold, with their looks and models."""
    standing = Certificate.objects.filter(project=project, ended_at__isnull=True)
    return standing.select_related("look__model_version", "round__model_version", "label_class").order_by("pk")


@transaction.atomic
def record_look(*, look: Look, certificates: Iterable[Certificate], after: int, rounds: int = 0) -> Look | None:
    """Store a look and what it certified; None when another one was taken, or a round started, meanwhile. ``after``,
    ``rounds``: how many looks and rounds it knew of.

    Whatever it certifies replaces the certificates of earlier looks: their labels go back to people until `accept`
    takes over what lies in the new regions. What rounds certified stands: no look counts their images. Takes the
    project's proposal lock.
    """
    lock_proposals(look.project)
    if Look.objects.filter(project=look.project).count() != after:
        return None
    if Round.objects.filter(project=look.project).count() != rounds:
        return None
    look.number = after + 1
    look.save()
    fresh = list(certificates)
    if fresh:
        earlier = list(standing_certificates(look.project).filter(look__isnull=False))
        give_back(earlier, why="a later look at the random checks took its place", is_said=False)
    for certificate in fresh:
        certificate.look, certificate.project = look, look.project
        certificate.save()
    AuditEvent.objects.create(
        project=look.project,
        verb="looked at the random checks",
        detail={"look": look.number, "answers": look.answers, "certificates": [each.pk for each in fresh]},
    )
    return look


@transaction.atomic
def accept(*, certificate: Certificate, predictions: Unseen) -> int:
    """Accept these labels unseen, under the certificate; how many that were.

    Nothing while the owner has it switched off or asks for more than it shows, or after it ended. Left out: whatever
    anybody ever answered or answers at this moment, random checks, archived classes, and between a round and a look
    what the other one accepted. Pending proposals for the accepted images go, and so do their places in the queue.
    Takes the project's proposal lock, then items with SKIP LOCKED.
    """
    project = certificate.project
    lock_proposals(project)
    project.refresh_from_db(fields=["settings_json"])
    standing = Certificate.objects.filter(pk=certificate.pk, ended_at__isnull=True, accepted_at__isnull=True)
    chosen = project.settings
    # Settings saved while it was worked out found no certificate to end.
    standing = standing.filter(bound__gte=chosen.target_precision, confidence__gte=chosen.certificate_confidence)
    if not chosen.auto_accept or not standing.update(accepted_at=timezone.now()):
        return 0
    merged = merged_into(project)  # since it was predicted
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE TEMPORARY TABLE unseen ON COMMIT DROP AS
            WITH wanted AS (
                SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::float8[]) AS t (item_id, class_id, confidence)
            ), unanswered AS MATERIALIZED (
                SELECT id FROM annotator_item i
                WHERE project_id = %s AND state = 'open' AND split = 'pool' AND id IN (SELECT item_id FROM wanted)
                    AND NOT EXISTS (SELECT FROM annotator_annotation a WHERE a.item_id = i.id)
                    AND NOT EXISTS (
                        SELECT FROM annotator_proposal p JOIN annotator_certificate o ON o.id = p.certificate_id
                        WHERE p.item_id = i.id AND p.state = 'auto_accepted' AND (o.round_id IS NOT NULL) <> %s
                    )
                FOR NO KEY UPDATE SKIP LOCKED
            )
            SELECT w.* FROM wanted w JOIN unanswered u ON u.id = w.item_id
            JOIN annotator_labelclass c ON c.id = w.class_id AND NOT c.is_archived
            """,
            [
                predictions.item_ids,
                [merged.get(each, each) for each in predictions.class_ids],
                predictions.confidences,
                project.pk,
                certificate.round_id is not None,
            ],
        )
        cursor.execute(
            """
            UPDATE annotator_proposal SET state = 'withdrawn'
            WHERE project_id = %s AND state IN ('pending', 'auto_accepted')
                AND item_id IN (SELECT item_id FROM unseen)
            """,
            [project.pk],
        )
        cursor.execute(
            """
            INSERT INTO annotator_proposal (project_id, item_id, model_version_id, certificate_id, value,
                label_class_id, confidence, is_calibrated, short_list, state, created_at)
            SELECT %s, item_id, %s, %s, jsonb_build_object('class', class_id), class_id, confidence, false,
                jsonb_build_array(jsonb_build_array(class_id, round(confidence::numeric, 4))), 'auto_accepted', now()
            FROM unseen
            """,
            [project.pk, certificate.model_version.pk, certificate.pk],
        )
        accepted = cursor.rowcount
        cursor.execute(
            """
            DELETE FROM annotator_queueentry WHERE id IN (
                SELECT id FROM annotator_queueentry
                WHERE item_id IN (SELECT item_id FROM unseen) AND (leased_until IS NULL OR leased_until <= now())
                FOR UPDATE SKIP LOCKED
            )
            """
        )
        cursor.execute("DROP TABLE unseen")
    AuditEvent.objects.create(
        project=project, verb="accepted unseen", detail={"certificate": certificate.pk, "count": accepted}
    )
    return accepted


def give_back(
    certificates: Iterable[Certificate],
    *,
    why: str,
    actor: User | None = None,
    ends: bool = True,
    is_said: bool = True,
) -> int:
    """Put the labels accepted under these certificates before people again; how many there were.

    ends: the certificates hold no more; otherwise they do, and only nothing is accepted under them. is_said: whether
    people are told. The caller holds the project's proposal lock.
    """
    given_back = 0
    for certificate in certificates:
        columns: dict[str, Any] = {"accepted_at": None}
        if ends:
            columns |= {"ended_at": timezone.now(), "ended_why": why[:300], "ended_by_id": actor.pk if actor else None}
        Certificate.objects.filter(pk=certificate.pk).update(**columns)
        count = _put_up(certificate)
        given_back += count
        if count and is_said:
            AuditEvent.objects.create(
                project_id=certificate.project_id,
                actor_id=actor.pk if actor else None,
                verb=GIVEN_BACK,
                detail={"certificate": certificate.pk, "count": count, "why": why},
            )
    return given_back


def _put_up(certificate: Certificate) -> int:
    """Make its labels pending proposals, where the image still is open and the class in use."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE annotator_proposal p
            SET state = CASE WHEN i.state = 'open' AND NOT c.is_archived THEN 'pending' ELSE 'withdrawn' END
            FROM annotator_item i, annotator_labelclass c
            WHERE i.id = p.item_id AND c.id = p.label_class_id AND p.state = 'auto_accepted' AND p.certificate_id = %s
            """,
            [certificate.pk],
        )
        return cursor.rowcount


@transaction.atomic
def hold_against(*, certificate: Certificate, n: int, k: int, bound: float) -> bool:
    """Write down what the answers of now say of a certificate, and end it when they break it; whether it still holds.

    Held against the target of the settings too, where that was raised to what it showed. Takes the project's proposal
    lock.
    """
    lock_proposals(certificate.project)
    standing = Certificate.objects.filter(pk=certificate.pk, ended_at__isnull=True)
    if not standing.update(n=n, k=k, bound=bound):
        return False
    target = _target_now(certificate)
    if bound >= target:
        return True
    wrong = n - k
    with in_english():  # it is kept
        why = (
            f"{wrong} of {n:,} random checks among them {'is' if wrong == 1 else 'are'} wrong by now; that shows"
            f" at least {percent(bound, 1)} to be right, not {promised(target)}"
        )
    give_back([certificate], why=why)
    return False


@transaction.atomic
def end(*, certificate: Certificate, why: str) -> None:
    """End a certificate that cannot be held against anything any more. Takes the project's proposal lock."""
    lock_proposals(certificate.project)
    if not Certificate.objects.filter(pk=certificate.pk, ended_at__isnull=True).exists():
        return
    give_back([certificate], why=why)
    detail = {"certificate": certificate.pk, "why": why}
    AuditEvent.objects.create(project_id=certificate.project_id, verb="ended a certificate", detail=detail)


def _target_now(certificate: Certificate) -> float:
    """What its labels must meet to count: what it was given for, or more where the settings ask for more now."""
    certificate.project.refresh_from_db(fields=["settings_json"])
    return max(certificate.target, certificate.project.settings.target_precision)


@transaction.atomic
def hold_against_labels(*, certificate: Certificate, n: int, k: int, at_most: float) -> bool:
    """End a certificate when blind checks of the very labels accepted under it break its promise; whether it holds.

    n, k: checks, and how many found the label right. at_most: with the certificate's confidence no more than this
    share is right, 0..1. Takes the project's proposal lock.
    """
    target = _target_now(certificate)
    if at_most >= target:
        return True
    lock_proposals(certificate.project)
    if not Certificate.objects.filter(pk=certificate.pk, ended_at__isnull=True).exists():
        return False
    wrong = n - k
    with in_english():  # it is kept
        why = (
            f"{wrong} of {n:,} of its labels that people checked blind {'is' if wrong == 1 else 'are'} wrong; that"
            f" shows at most {percent(at_most, 1)} to be right, not {promised(target)}"
        )
    give_back([certificate], why=why)
    return False


@transaction.atomic
def accept_again(*, item: Item, proposal_id: Any) -> bool:
    """Let a label count unseen again, once the answer that took it off is taken back; whether it does.

    Not when its certificate ended, nothing is accepted under it any more, or something else is proposed for the item
    by now. The caller holds the item's row lock; takes the project's proposal lock.
    """
    lock_proposals(item.project)
    if item.state != Item.State.OPEN or Proposal.objects.filter(item=item, state__in=Proposal.UNDECIDED).exists():
        return False
    taken_off = Proposal.objects.filter(
        pk=proposal_id,
        item=item,
        state=Proposal.State.WITHDRAWN,
        certificate__accepted_at__isnull=False,
        label_class__is_archived=False,
    )
    return bool(taken_off.update(state=Proposal.State.AUTO_ACCEPTED))


def hold_to_settings(*, project: Project, actor: User, before: dict[str, Any], now: ProjectSettings) -> None:
    """End the certificates that new settings ask more than, and give labels back where nothing is to be unseen.

    Switched on, the worker accepts what a standing certificate allows. Called inside the transaction that saves.
    """
    lock_proposals(project)
    standing = list(standing_certificates(project))
    if not now.auto_accept:
        give_back(standing, why="accepting unseen was switched off", actor=actor, ends=False)
    short = [
        each for each in standing if each.bound < now.target_precision or each.confidence < now.certificate_confidence
    ]
    with in_english():  # it is kept
        promise = f"{promised(now.target_precision)} right with {promised(now.certificate_confidence)} certainty"
    give_back(short, why=f"the settings ask for more now: {promise}", actor=actor)
    if now.auto_accept and not before.get("auto_accept") and len(short) < len(standing):
        jobs.enqueue(project, Job.Kind.REFIT)


def accepted_unseen(project: Project) -> QuerySet[Proposal]:
    """The labels that count although nobody looked."""
    return Proposal.objects.filter(project=project, state=Proposal.State.AUTO_ACCEPTED)


@transaction.atomic
def draw_checks(*, project: Project, actor: User, count: int) -> int:
    """Make so many images of the pool random checks; how many it became. Raises InvalidSettings, Conflict.

    Drawn uniformly at random from what nobody ever answered or holds. Beside the checks drawn at import they favour
    what is open still, by as much as people have answered; that is what a certificate speaks of, and the bound
    (gate.open_bound) takes the sample's errors to be all among it already, so the promise holds for both together.
    An image that was accepted unseen becomes a check of its certificate.

    What is promised stays a promise of the same images, those drawn among them: it says how many errors they can have
    at all, and chance, not people, took these out, so nothing tilts towards the others. So a draw alone changes no
    bound; it is the answers that do. Left out are only the images of a running round that are its checks.

    Takes the queue's lock against a ranking that is being written, then the proposal lock, then items with SKIP
    LOCKED.
    """
    if not 1 <= count <= DRAW_AT_MOST:
        why = _("%(count)s is not between 1 and %(draw_at_most)s random checks") % {
            "count": count,
            "draw_at_most": thousands(DRAW_AT_MOST),
        }
        raise InvalidSettings(why, fields={"count": why})
    queueing.lock_queue(project)
    lock_proposals(project)
    answered = Annotation.objects.filter(item=OuterRef("pk"))
    held = QueueEntry.objects.filter(item=OuterRef("pk"), leased_until__gt=timezone.now())
    shown_with_class = ClassExample.objects.filter(item=OuterRef("pk"))
    in_round = RoundCheck.objects.filter(item=OuterRef("pk"), round__state=Round.State.RUNNING)
    free = Item.objects.filter(
        ~Exists(answered),
        ~Exists(held),
        ~Exists(shown_with_class),
        ~Exists(in_round),
        project=project,
        split=Split.POOL,
        state=Item.State.OPEN,
    )
    there = list(free.order_by("pk").values_list("pk", flat=True))
    if len(there) < 2 * count:
        raise Conflict(
            _("only %(n)s images are open; at most half of them can become random checks")
            % {"n": thousands(len(there))}
        )
    drawn = random.SystemRandom().sample(there, count)
    locked = free.select_for_update(skip_locked=True, no_key=True, of=("self",)).filter(pk__in=drawn)
    drawn = list(locked.order_by("pk").values_list("pk", flat=True))
    Item.objects.filter(pk__in=drawn).update(split=Split.AUDIT)
    _put_among_checks(drawn)
    shown = Proposal.objects.filter(item_id__in=drawn, state__in=Proposal.UNDECIDED)
    shown.update(state=Proposal.State.WITHDRAWN)
    QueueEntry.objects.filter(item_id__in=drawn).delete()
    queueing.start_queue(project=project)
    AuditEvent.objects.create(
        project=project, actor_id=actor.pk, verb="drew random checks", detail={"count": len(drawn)}
    )
    jobs.enqueue(project, Job.Kind.REFIT)
    return len(drawn)


def _put_among_checks(item_ids: list[int]) -> None:
    """Remember what the models of looks said of items that become random checks; rounds know their images."""
    accepted = Proposal.objects.filter(
        item_id__in=item_ids, state=Proposal.State.AUTO_ACCEPTED, certificate__round__isnull=True
    )
    for certificate in Certificate.objects.filter(pk__in=accepted.values("certificate")):
        said = dict(accepted.filter(certificate=certificate).values_list("item_id", "label_class_id"))
        certificate.checks |= {str(item_id): class_id for item_id, class_id in said.items()}
        certificate.save(update_fields=["checks"])
