import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('annotator', '0004_compare_encoders'),
    ]

    operations = [
        migrations.CreateModel(
            name='ScoringShard',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('folder', models.CharField(help_text='what is to be computed, and the scores; in ARTIFACT_ROOT', max_length=300)),
                ('number', models.PositiveIntegerField()),
                ('first', models.PositiveIntegerField()),
                ('end', models.PositiveIntegerField(help_text='one past the last image')),
                ('is_done', models.BooleanField(default=False, help_text='its scores lie in the folder')),
                ('attempt', models.PositiveSmallIntegerField(default=0)),
                ('held_by', models.CharField(blank=True, help_text='the process that took it last', max_length=100)),
                ('heartbeat_at', models.DateTimeField(null=True)),
                ('error', models.TextField(blank=True, help_text='why the last attempt failed')),
                ('job', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='scoring_shards', to='annotator.job')),
            ],
            options={
                'ordering': ('job', 'number'),
                'constraints': [models.UniqueConstraint(fields=('job', 'number'), name='shard_numbers_differ_within_a_job'), models.CheckConstraint(condition=models.Q(('end__gt', models.F('first'))), name='a_shard_holds_images'), models.CheckConstraint(condition=models.Q(('is_done', False), ('heartbeat_at__isnull', True), _connector='OR'), name='nobody_holds_a_shard_that_is_done')],
            },
        ),
    ]
