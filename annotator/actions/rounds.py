"""Certification rounds: started and cancelled by an owner, ended by the worker that judges them (ml_worker/rounds.py).

The worker proposes a region with each model and writes down what that model says of it; a round draws from exactly
those predictions, at once.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator import jobs, queries
from annotator.actions import needs, queueing, round_checks
from annotator.actions.class_changes import merged_into
from annotator.actions.proposing import lock_proposals
from annotator.actions.round_checks import round_file as round_file
from annotator.errors import Conflict, InvalidSettings, NotFound
from annotator.models import (
    AuditEvent,
    Certificate,
    Job,
    Look,
    Project,
    QueueEntry,
    Round,
    RoundCheck,
)
from annotator.wording import thousands

Stages = list[tuple[int, int, float]]


@dataclass(frozen=True)
class Offer:
    """A region that a round may be about. plans: the stages when no error is waited out, when one is, and so on; each
    stage is (checks, errors, part of the error). chance: of success, by what is known; expected: checks it may take.
    lower: what 98 % instead of 99 % would take, {"target", "at"}."""

    model: int
    class_id: int | None
    threshold: float
    share: float
    size: int
    target: float
    confidence: float
    spent: float
    plans: list[Stages]
    chance: float
    expected: int
    lower: dict[str, Any]

    @property
    def at_least(self) -> int:
        """The fewest checks that a round can do with."""
        return self.plans[0][-1][0]

    @property
    def at_most(self) -> int:
        return self.plans[-1][-1][0]

    @property
    def cost(self) -> list[int]:
        """The checks it takes without an error, with one, with two, and so on."""
        return [at for at, _, _ in self.plans[-1]]

    @property
    def let_through(self) -> int:
        """Images, when no error turns up."""
        return self.size - self.plans[-1][0][0]

    def stages(self, count: int | None) -> Stages:
        """As many as so many checks allow for; all by default. Raises InvalidSettings for too few and too many."""
        if count is None:
            return self.plans[-1]
        if not self.at_least <= count <= self.at_most:
            why = _("%(count)s is not between %(at_least)s and %(at_most)s checks") % {
                "count": thousands(count),
                "at_least": thousands(self.at_least),
                "at_most": thousands(self.at_most),
            }
            raise InvalidSettings(why, fields={"count": why})
        return [plan for plan in self.plans if plan[-1][0] <= count][-1]


def offer(project: Project) -> tuple[Offer | None, str]:
    """The region the newest model proposes, or why there is none: nothing is promised from settings of yesterday.

    Four queries.
    """
    if round_checks.running(project):
        return None, _("a round is running")
    model = queries.current_model(project)
    raw = ((model.metrics.get("gate") if model else None) or {}).get("round")
    if model is None or raw is None:
        return None, _("no model has proposed a region yet")
    if "why" in raw:
        return None, _(str(raw["why"]))
    chosen = project.settings
    if (raw["target"], raw["confidence"], raw["by_class"]) != (
        chosen.target_precision,
        chosen.certificate_confidence,
        chosen.threshold_per_class,
    ):
        return None, _("the settings have changed; the next model proposes a region for them")
    known = (Look.objects.filter(project=project).count(), Round.objects.filter(project=project).count())
    if (raw["looks"], raw["rounds"]) != known:
        return None, _("a look or a round has come in between; the next model proposes a region")
    names = Offer.__dataclass_fields__.keys() - {"model", "plans"}
    plans = [[(at, errors, delta) for at, errors, delta in plan] for plan in raw["plans"]]
    return Offer(model=model.number, plans=plans, **{name: raw[name] for name in names}), ""


def offer_file(project: Project) -> Path:
    """What the newest model says of the region it proposes: item_ids, class_ids, confidences and places, all (M,), and
    the number of the model."""
    return Path(settings.ARTIFACT_ROOT) / str(project.pk) / "offer.npz"


@transaction.atomic
def start_round(*, project: Project, actor: User, count: int | None = None) -> Round:
    """Draw the checks of a new round, over the region proposed; count: checks at most. Raises InvalidSettings or
    Conflict.

    Its images leave the review page and are no longer asked for what they could teach; its checks wait in the queue.
    Takes the queue's lock, then the proposal lock.
    """
    queueing.lock_queue(project)
    lock_proposals(project)
    project.refresh_from_db(fields=["settings_json"])
    model = queries.current_model(project)
    offered, why = offer(project)
    if model is None or offered is None:
        raise Conflict(_("no round can start: %(why)s") % {"why": why})
    stages = offered.stages(count)
    region = _free_region(project, offered)
    size, at_most = len(region["item_ids"]), stages[-1][0]
    if size < 2 * at_most:
        raise Conflict(
            _("only %(size)s of the %(size_2)s images are still open; wait for the next model to propose others")
            % {"size": thousands(size), "size_2": thousands(offered.size)}
        )
    drawn = Round.objects.create(
        project=project,
        number=Round.objects.filter(project=project).count() + 1,
        model_version=model,
        label_class_id=offered.class_id,
        threshold=offered.threshold,
        share=offered.share,
        size=size,
        target=offered.target,
        confidence=offered.confidence,
        spent=offered.spent,
        stages=stages,
        started_by_id=actor.pk,
    )
    # Drawn after the region was fixed, without regard to anything: what the promise rests on.
    rows = random.SystemRandom().sample(range(size), at_most)
    RoundCheck.objects.bulk_create(
        RoundCheck(
            round=drawn,
            item_id=int(region["item_ids"][row]),
            position=position,
            predicted_id=int(region["class_ids"][row]),
            place=float(region["places"][row]),
        )
        for position, row in enumerate(rows)
    )
    _freeze(drawn, region)
    _set_aside(project, region["item_ids"])
    detail = {"round": drawn.number, "images": size, "checks": at_most}
    AuditEvent.objects.create(project=project, actor_id=actor.pk, verb="started a certification round", detail=detail)
    jobs.enqueue(project, Job.Kind.REFIT)
    return drawn


def _free_region(project: Project, offered: Offer) -> dict[str, np.ndarray]:
    """The region proposed, less what was answered, taken or held since."""
    region = round_checks.arrays_in(offer_file(project))
    if int(region.pop("model", -1)) != offered.model:
        raise Conflict(_("no round can start: a new model is just being made; try again in a moment"))
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT id FROM annotator_item i
            WHERE project_id = %s AND id = ANY(%s) AND state = 'open' AND split = 'pool'
                AND NOT EXISTS (SELECT FROM annotator_annotation a WHERE a.item_id = i.id)
                AND NOT EXISTS (SELECT FROM annotator_proposal p WHERE p.item_id = i.id AND p.state = 'auto_accepted')
                AND NOT EXISTS (SELECT FROM annotator_queueentry q WHERE q.item_id = i.id AND q.leased_until > now())
            """,
            [project.pk, region["item_ids"].tolist()],
        )
        free = np.array([item_id for (item_id,) in cursor.fetchall()], np.int64)
    for source_id, target_id in merged_into(project).items():  # since it was predicted
        region["class_ids"] = np.where(region["class_ids"] == source_id, target_id, region["class_ids"])
    class_ids = [label_class.pk for label_class in queries.open_classes(project)]
    kept_rows = np.isin(region["item_ids"], free) & np.isin(region["class_ids"], class_ids)
    return {name: array[kept_rows] for name, array in region.items()}


def _freeze(drawn: Round, region: dict[str, np.ndarray]) -> None:
    path = round_file(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        np.savez(
            file,
            item_ids=region["item_ids"],
            class_ids=region["class_ids"],
            confidences=region["confidences"],
        )
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _set_aside(project: Project, item_ids: np.ndarray) -> None:
    """Take the region off the review page and out of the queue, but for what people hold."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE annotator_proposal SET state = 'withdrawn'"
            " WHERE project_id = %s AND state = 'pending' AND item_id = ANY(%s)",
            [project.pk, item_ids.tolist()],
        )
    waiting = QueueEntry.objects.select_for_update(skip_locked=True, of=("self",)).filter(
        needs.free(), project=project
    )
    asked = [pk for pk, item_id in waiting.values_list("pk", "item_id") if item_id in set(item_ids.tolist())]
    QueueEntry.objects.filter(pk__in=asked).delete()


@transaction.atomic
def cancel_round(*, project: Project, actor: User, round_id: int) -> Round:
    """End a running round before its time; the error it took stays taken. Raises NotFound, Conflict.

    Takes the project's proposal lock.
    """
    lock_proposals(project)
    found = Round.objects.filter(project=project, pk=round_id).first()
    if found is None:
        raise NotFound(_("there is no round %(round_id)s in this project") % {"round_id": round_id})
    if not _end(found, Round.State.CANCELLED, "it was cancelled", actor):
        raise Conflict(_("round %(number)s is over already") % {"number": found.number})
    return found


@transaction.atomic
def fail_round(*, drawn: Round, why: str) -> bool:
    """End a round that cannot succeed any more; whether it was still running. Takes the project's proposal lock."""
    lock_proposals(drawn.project)
    return _end(drawn, Round.State.FAILED, why)


@transaction.atomic
def certify_round(*, drawn: Round, certificate: Certificate) -> bool:
    """End a round with what it shows; whether it was still running. Takes the project's proposal lock."""
    lock_proposals(drawn.project)
    if not _end(drawn, Round.State.CERTIFIED, f"{certificate.n:,} checks show it"):
        return False
    certificate.project, certificate.round = drawn.project, drawn
    certificate.save()
    return True


def _end(drawn: Round, state: str, why: str, actor: User | None = None) -> bool:
    """The caller holds the project's proposal lock."""
    going = Round.objects.filter(pk=drawn.pk, state=Round.State.RUNNING)
    if not going.update(state=state, ended_at=timezone.now(), ended_why=why[:300]):
        return False
    waiting = QueueEntry.objects.select_for_update(skip_locked=True, of=("self",)).filter(
        item__round_checks__round=drawn, reason_code=QueueEntry.Reason.AUTOMATIC, leased_until__isnull=True
    )
    QueueEntry.objects.filter(pk__in=list(waiting.values_list("pk", flat=True))).delete()
    drawn.refresh_from_db()
    AuditEvent.objects.create(
        project_id=drawn.project_id,
        actor_id=actor.pk if actor else None,
        verb=f"certification round {state}",
        detail={"round": drawn.number, "why": drawn.ended_why},
    )
    if state != Round.State.CERTIFIED:
        jobs.enqueue(drawn.project, Job.Kind.REFIT)  # which lets its images be asked and proposed again
    return True


def judge_when_answered(project: Project) -> None:
    """Ask for a new model as soon as a round waits for no more answers: with it the round is judged."""
    if round_checks.are_answered(project):
        jobs.enqueue(project, Job.Kind.REFIT)
