"""The Celery application. Its settings are the CELERY_* names of `annotator.settings`; it ends with `up`."""

import os

from celery import Celery

from annotator.supervisor import die_with_parent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotator.settings")
die_with_parent()

# Celery itself calls django.setup() in a worker and closes stale connections around each task.
app = Celery("ml_worker")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["ml_worker"])
