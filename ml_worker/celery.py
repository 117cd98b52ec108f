"""The Celery application. Its settings are the CELERY_* names of `annotator.settings`; it ends with `up`."""

import os
import warnings
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import worker_ready

from annotator.supervisor import die_with_parent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotator.settings")
die_with_parent()
# Printed at every start as root, where root is all there is (a container); messages are JSON, never code.
warnings.filterwarnings("ignore", category=SecurityWarning)

# Celery itself calls django.setup() in a worker and closes stale connections around each task.
app = Celery("ml_worker")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["ml_worker"])


@worker_ready.connect
def announce(**_: Any) -> None:
    """Say at the database that a worker lives; by now Celery has set Django up."""
    from annotator import jobs

    jobs.announce_worker()
