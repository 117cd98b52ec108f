"""A flag on an image: somebody wants it looked at again, and may say why. It changes no label and no queue."""

from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotator.errors import InvalidAnnotation, NotFound
from annotator.models import AuditEvent, Flag, Item, Project

NOTE_AT_MOST = 500
RAISED, LOWERED = "raised a flag", "lowered a flag"


def raise_flag(*, project: Project, item_id: int, actor: User, note: str = "") -> Flag:
    """The flag of this person on the image, raised now or before; a note replaces the one it had.

    Raises NotFound for an image of another project, InvalidAnnotation for a note that is too long.
    """
    note = _clean(note)
    if not Item.objects.filter(project=project, pk=item_id).exists():
        raise NotFound(_("there is no item %(item_id)s in this project") % {"item_id": item_id})
    try:
        with transaction.atomic():
            flag, is_new = Flag.objects.get_or_create(
                project=project, item_id=item_id, raised_by=actor, lowered_at=None, defaults={"note": note}
            )
            if is_new:
                _record(flag, actor, RAISED)
    except IntegrityError:  # raised by the same person at the same moment: one of the two is enough
        flag, is_new = Flag.objects.get(item_id=item_id, raised_by=actor, lowered_at=None), False
    if not is_new and note and note != flag.note:
        flag.note = note
        flag.save(update_fields=["note"])
    return flag


def lower_own(*, project: Project, item_id: int, actor: User) -> bool:
    """Take this person's flag off the image; whether there was one. Raises NotFound for a foreign one."""
    if not Item.objects.filter(project=project, pk=item_id).exists():
        raise NotFound(_("there is no item %(item_id)s in this project") % {"item_id": item_id})
    flag = Flag.objects.filter(project=project, item_id=item_id, raised_by=actor, lowered_at=None).first()
    return flag is not None and _lower(flag, actor)


def lower_flag(*, project: Project, flag_id: int, actor: User) -> bool:
    """Take a flag down, whoever raised it; whether it was still up. Raises NotFound."""
    flag = Flag.objects.filter(project=project, pk=flag_id).first()
    if flag is None:
        raise NotFound(_("there is no flag %(flag_id)s in this project") % {"flag_id": flag_id})
    return _lower(flag, actor)


def toggle_flag(*, project: Project, item_id: int, actor: User, note: str = "", raised: bool | None = None) -> bool:
    """Raise this person's flag on the image, or lower it where it is up; whether it is up now.

    raised: what is wanted, so that sending it twice does it once; None: the other of what it is.
    """
    note = _clean(note)
    if raised is None:
        up = Flag.objects.filter(project=project, item_id=item_id, raised_by=actor, lowered_at=None)
        raised = not up.exists()
    if raised:
        raise_flag(project=project, item_id=item_id, actor=actor, note=note)
    else:
        lower_own(project=project, item_id=item_id, actor=actor)
    return raised


def _clean(note: str) -> str:
    note = note.strip()
    if len(note) > NOTE_AT_MOST:
        why = _("a note of %(n)s characters; at most %(note_at_most)s fit") % {
            "n": len(note),
            "note_at_most": NOTE_AT_MOST,
        }
        raise InvalidAnnotation(why, fields={"note": why})
    return note


@transaction.atomic
def _lower(flag: Flag, actor: User) -> bool:
    up = Flag.objects.filter(pk=flag.pk, lowered_at__isnull=True)
    if not up.update(lowered_by=actor, lowered_at=timezone.now()):
        return False
    _record(flag, actor, LOWERED)
    return True


def _record(flag: Flag, actor: User, verb: str) -> None:
    detail = {"flag": flag.pk, "item": flag.item_id}
    AuditEvent.objects.create(project=flag.project, actor=actor, verb=verb, detail=detail)
