from django.db import migrations, models

COALESCED = ["embed", "refit", "train", "compare"]


class Migration(migrations.Migration):

    dependencies = [
        ('annotator', '0003_training'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='job',
            name='one_waiting_job_per_project_and_coalesced_kind',
        ),
        migrations.RemoveConstraint(
            model_name='job',
            name='one_running_job_per_project_and_coalesced_kind',
        ),
        migrations.AlterField(
            model_name='job',
            name='kind',
            field=models.CharField(choices=[('import', 'Import'), ('embed', 'Embed the pool'), ('refit', 'Learn and rank'), ('train', 'Train a network'), ('compare', 'Compare encoders'), ('export', 'Export')], max_length=12),
        ),
        migrations.AddConstraint(
            model_name='job',
            constraint=models.UniqueConstraint(condition=models.Q(('kind__in', COALESCED), ('state', 'queued')), fields=('project', 'kind'), name='one_waiting_job_per_project_and_coalesced_kind'),
        ),
        migrations.AddConstraint(
            model_name='job',
            constraint=models.UniqueConstraint(condition=models.Q(('kind__in', COALESCED), ('state', 'running')), fields=('project', 'kind'), name='one_running_job_per_project_and_coalesced_kind'),
        ),
        migrations.AlterField(
            model_name='modelversion',
            name='algorithm',
            field=models.CharField(help_text='the head or trainer, or zero_shot', max_length=40),
        ),
    ]
