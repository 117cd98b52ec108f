"""Pseudo-labels put before people: never mixed with what people said, always behind it."""

from dataclasses import dataclass
from datetime import timedelta

from django.db import connection, transaction
from django.utils import timezone

from annotator.actions.class_changes import merged_into
from annotator.models import ModelVersion, Project, Proposal

PROPOSAL_LOCK = 1002
KEEP_WITHDRAWN = timedelta(hours=1)


@dataclass(frozen=True)
class Predicted:
    """What a model says of one item. ``short_list``: [(class id, probability), ...], most likely first."""

    item_id: int
    class_id: int
    confidence: float
    short_list: list[tuple[int, float]]


def lock_proposals(project: Project) -> None:
    """Let one transaction at a time change this project's pending proposals (people's decisions and new models)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [PROPOSAL_LOCK, project.pk])


@transaction.atomic
def store_proposals(*, project: Project, model_version: ModelVersion, predictions: list[Predicted]) -> int:
    """Make ``predictions`` the project's pending proposals; how many are pending then.

    A pending proposal of the same class stays the same row, with the new confidence and model version, so that a
    grid somebody is looking at stays true. One whose class changed, or that is no longer predicted, is withdrawn; not
    what was given back to people after it had been accepted unseen: that waits for them. What is accepted unseen gets
    none.
    Items people have answered meanwhile or answer at this moment get none, nor do classes archived meanwhile. Takes
    the project's proposal lock, then the items with SKIP LOCKED; four statements.
    """
    from psycopg.types.json import Jsonb

    lock_proposals(project)
    merged = merged_into(project)  # since the model learnt
    predicted = (
        [each.item_id for each in predictions],
        [merged.get(each.class_id, each.class_id) for each in predictions],
        [each.confidence for each in predictions],
        [Jsonb(each.short_list) for each in predictions],
    )
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE TEMPORARY TABLE predicted ON COMMIT DROP AS
            SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::float8[], %s::jsonb[])
                AS t (item_id, class_id, confidence, short_list)
            """,
            predicted,
        )
        cursor.execute(
            """
            UPDATE annotator_proposal p
            SET confidence = n.confidence, short_list = n.short_list, model_version_id = %s, is_calibrated = %s
            FROM predicted n
            WHERE p.project_id = %s AND p.state = 'pending' AND p.item_id = n.item_id
                AND p.label_class_id = n.class_id
            """,
            [model_version.pk, model_version.is_calibrated, project.pk],
        )
        cursor.execute(
            """
            UPDATE annotator_proposal SET state = 'withdrawn'
            WHERE project_id = %s AND state = 'pending' AND model_version_id <> %s AND certificate_id IS NULL
            """,
            [project.pk, model_version.pk],
        )
        cursor.execute(
            """
            WITH unanswered AS MATERIALIZED (
                SELECT id FROM annotator_item i WHERE state = 'open' AND id IN (SELECT item_id FROM predicted)
                    AND NOT EXISTS (
                        SELECT FROM annotator_proposal a WHERE a.item_id = i.id AND a.state = 'auto_accepted'
                    ) AND NOT EXISTS (
                        SELECT FROM annotator_roundcheck c JOIN annotator_round r ON r.id = c.round_id
                        WHERE c.item_id = i.id AND r.state = 'running'
                    )
                FOR NO KEY UPDATE SKIP LOCKED
            )
            INSERT INTO annotator_proposal (project_id, item_id, model_version_id, value, label_class_id, confidence,
                                            is_calibrated, short_list, state, created_at)
            SELECT %s, n.item_id, %s, jsonb_build_object('class', n.class_id), n.class_id, n.confidence,
                   %s, n.short_list, 'pending', now()
            FROM predicted n JOIN unanswered i ON i.id = n.item_id
            JOIN annotator_labelclass c ON c.id = n.class_id AND NOT c.is_archived
            ON CONFLICT (item_id) WHERE state = 'pending' DO NOTHING
            """,
            [project.pk, model_version.pk, model_version.is_calibrated],
        )
        cursor.execute("DROP TABLE predicted")
    # Withdrawn rows are kept a while for grids that are still open; then nothing refers to them.
    Proposal.objects.filter(
        project=project,
        state=Proposal.State.WITHDRAWN,
        created_at__lt=timezone.now() - KEEP_WITHDRAWN,
        decided_at__isnull=True,
        annotations__isnull=True,
    ).delete()
    return Proposal.objects.filter(project=project, state=Proposal.State.PENDING).count()
