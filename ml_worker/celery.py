"""The Celery application. Its settings are the CELERY_* names of `annotator.settings`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "annotator.settings")

# Celery itself calls django.setup() in a worker and closes stale connections around each task.
app = Celery("ml_worker")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["ml_worker"])
