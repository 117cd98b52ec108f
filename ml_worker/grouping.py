"""The grouping job: look-alikes among what is open, fits no class or is of one class, for people to name or sort."""

import numpy as np

from annotator import jobs, queries
from annotator.models import Job, Project
from ml_worker import look_alikes, snapshot
from ml_worker.whole_files import whole_file

# Groupings kept for each kind of images: one that somebody still looks at, and the newest.
KEPT = 2


def run(run: jobs.Run) -> None:
    """Write the groups of what the parameter ``of`` names into a file; the result says how many images and groups.

    Taken up again after an interruption it begins anew, with the same seed: it takes seconds.
    """
    project, of = run.job.project, str(run.job.parameters.get("of", ""))
    wanted = queries.groupable_items(project, of)
    embedding = queries.current_embedding(project)
    if embedding is None:
        run.remember(images=0, groups=0, without_vector=wanted.count())
        run.report(1.0, queries.lack_of_embedding(project, "group them"), force=True)
        return
    run.report(0.1, "looking which images there are", force=True)
    item_ids = np.sort(np.fromiter(wanted.order_by().values_list("pk", flat=True), np.int64))
    embedded = snapshot.load_embedded(embedding.result["folder"])
    rows, has_row = embedded.rows(item_ids) if len(item_ids) else (item_ids, np.zeros(0, bool))
    run.report(0.2, f"comparing {int(has_row.sum()):,} images", force=True)
    found = look_alikes.groups(
        embedded.pool.embeddings,
        rows[has_row].astype(np.int64),
        np.random.default_rng([project.pk, run.job.seed]),
        lambda done: run.report(0.2 + 0.7 * done, f"comparing {int(has_row.sum()):,} images"),
    )
    run.report(0.95, "writing the groups down", force=True)
    with whole_file(queries.groups_file(project, run.job.pk), f"-{run.job.attempt}") as file:
        np.savez(
            file,
            item_ids=embedded.item_ids[np.concatenate([each.rows for each in found])] if found else item_ids[:0],
            starts=np.cumsum([0, *(len(each.rows) for each in found)], dtype=np.int64),
            sizes=np.array([each.size for each in found], np.int64),
            coherence=np.array([each.coherence for each in found], np.float32),
        )
    run.remember(images=int(has_row.sum()), groups=len(found), without_vector=int((~has_row).sum()))
    run.log(f"{int(has_row.sum()):,} images in {len(found):,} groups")
    _prune(project, of)


def _prune(project: Project, of: str) -> None:
    done = Job.objects.filter(project=project, kind=Job.Kind.GROUP, parameters__of=of, state=Job.State.DONE)
    for job_id in done.order_by("-id").values_list("pk", flat=True)[KEPT - 1 : KEPT + 20]:
        queries.groups_file(project, job_id).unlink(missing_ok=True)
