"""Winnow's web side. Importing it tells Celery which broker to ring, in whatever process this is."""

from annotator.broker import app as celery_app

__all__ = ["celery_app"]
