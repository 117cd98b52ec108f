from django.db import migrations

STARTERS = ["typiclust", "probcover", "random_sampling"]


def say_bald(apps, schema_editor):
    """What was called disagreement is called bald; a project opens only with what needs no model, as it did in effect."""
    Project = apps.get_model("annotator", "Project")
    for project in Project.objects.filter(settings_json__acquisition="disagreement"):
        project.settings_json["acquisition"] = "bald"
        project.save(update_fields=["settings_json"])
    for project in Project.objects.filter(settings_json__has_key="cold_start"):
        if project.settings_json["cold_start"] not in STARTERS:
            project.settings_json["cold_start"] = "typiclust"
            project.save(update_fields=["settings_json"])


def say_disagreement(apps, schema_editor):
    Project = apps.get_model("annotator", "Project")
    for project in Project.objects.filter(settings_json__acquisition="bald"):
        project.settings_json["acquisition"] = "disagreement"
        project.save(update_fields=["settings_json"])


class Migration(migrations.Migration):

    dependencies = [
        ('annotator', '0006_certificates'),
    ]

    operations = [
        migrations.RunPython(say_bald, say_disagreement),
    ]
