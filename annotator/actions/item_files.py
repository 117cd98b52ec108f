"""What lies in storage for an item: the original bytes, a thumbnail, and a rendition where browsers need one."""

import io
from dataclasses import dataclass

from django.conf import settings
from django.core.files.base import ContentFile
from django.core.files.storage import default_storage

from annotator.formats import images
from annotator.formats.images import Inspected, UnusableImage
from annotator.models import Item, Job, Project


@dataclass(frozen=True)
class Taken:
    """A file whose bytes were read. label: the class name it came with, or empty."""

    name: str
    content: bytes
    sha256: str
    label: str


def inspected(taken: Taken) -> Inspected | UnusableImage:
    """What the image is, or why it cannot go in. Safe to call from several threads."""
    try:
        return images.inspect(io.BytesIO(taken.content), settings.MAX_IMAGE_PIXELS)
    except UnusableImage as error:
        return error


def item_key(project: Project, sha256: str, extension: str, folder: str = "items") -> str:
    """Where the bytes of an item, or a picture made of it, lie in storage."""
    return f"{folder}/{project.pk}/{sha256[:2]}/{sha256}{extension}"


def write_files(project: Project, taken: Taken, image: Inspected) -> None:
    """Store the original and the pictures made of it. Safe to call from several threads."""
    _write(item_key(project, taken.sha256, image.extension), taken.content)
    for folder, picture in (("thumbnails", image.thumbnail), ("renditions", image.rendition)):
        if picture is not None:
            _write(item_key(project, taken.sha256, picture[1], folder), picture[0])


def _write(key: str, content: bytes) -> None:
    """Put it there, unless it is there already: the key names the content. What a power cut left short is replaced."""
    if not (default_storage.exists(key) and default_storage.size(key) == len(content)):
        default_storage.save(key, ContentFile(content))


def make_item(job: Job, taken: Taken, image: Inspected) -> Item:
    """The row, not yet saved, of an image whose files are stored."""
    key = item_key(job.project, taken.sha256, image.extension)
    thumbnail, rendition = image.thumbnail, image.rendition
    metadata = {}
    if rendition is not None:
        metadata["rendition_key"] = item_key(job.project, taken.sha256, rendition[1], "renditions")
    return Item(
        project=job.project,
        sha256=taken.sha256,
        storage_key=key,
        thumbnail_key=item_key(job.project, taken.sha256, thumbnail[1], "thumbnails") if thumbnail else key,
        width=image.width,
        height=image.height,
        size_bytes=len(taken.content),
        mime=image.mime,
        source_name=taken.name,
        uploader=job.created_by,
        import_job=job,
        metadata=metadata,
    )
