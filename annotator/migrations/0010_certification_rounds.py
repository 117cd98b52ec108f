import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('annotator', '0009_needs_suspects_studies'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='RoundCheck',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('position', models.PositiveIntegerField(help_text='0, 1, 2... in the order drawn')),
                ('place', models.FloatField(help_text='share of the pool the model was at least as sure of, 0..1')),
            ],
            options={
                'ordering': ('round', 'position'),
            },
        ),
        migrations.AlterField(
            model_name='certificate',
            name='delta',
            field=models.FloatField(help_text="its part of the look's or the round's"),
        ),
        migrations.AlterField(
            model_name='certificate',
            name='look',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='certificates', to='annotator.look'),
        ),
        migrations.CreateModel(
            name='Round',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveIntegerField(help_text='1, 2, 3... within the project')),
                ('threshold', models.FloatField(help_text="0..1, of the model's own confidence, before a temperature")),
                ('share', models.FloatField(help_text='of the pool, 0..1: how far down the confidences reach')),
                ('size', models.PositiveIntegerField(help_text='images of the region, checks included')),
                ('target', models.FloatField(help_text='0..1, when it began')),
                ('confidence', models.FloatField(help_text='0..1, of all looks and rounds together')),
                ('spent', models.FloatField(help_text='its part of the error')),
                ('stages', models.JSONField(help_text='[[checks, errors allowed, part of the error], ...]')),
                ('state', models.CharField(choices=[('running', 'Running'), ('certified', 'Certified'), ('failed', 'Failed'), ('cancelled', 'Cancelled')], default='running', max_length=12)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('ended_at', models.DateTimeField(null=True)),
                ('ended_why', models.CharField(blank=True, max_length=300)),
                ('label_class', models.ForeignKey(help_text='null: any class', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='annotator.labelclass')),
                ('model_version', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='rounds', to='annotator.modelversion')),
                ('project', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='rounds', to='annotator.project')),
                ('started_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'ordering': ('-number',),
            },
        ),
        migrations.AddField(
            model_name='certificate',
            name='round',
            field=models.OneToOneField(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='certificate', to='annotator.round'),
        ),
        migrations.AddConstraint(
            model_name='certificate',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('look__isnull', True), ('round__isnull', False)), models.Q(('look__isnull', False), ('round__isnull', True)), _connector='OR'), name='a_certificate_comes_of_a_look_or_of_a_round'),
        ),
        migrations.AddField(
            model_name='roundcheck',
            name='item',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='round_checks', to='annotator.item'),
        ),
        migrations.AddField(
            model_name='roundcheck',
            name='predicted',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='annotator.labelclass'),
        ),
        migrations.AddField(
            model_name='roundcheck',
            name='round',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='checks', to='annotator.round'),
        ),
        migrations.AddConstraint(
            model_name='round',
            constraint=models.UniqueConstraint(fields=('project', 'number'), name='round_numbers_differ'),
        ),
        migrations.AddConstraint(
            model_name='round',
            constraint=models.UniqueConstraint(condition=models.Q(('state', 'running')), fields=('project',), name='one_running_round_per_project'),
        ),
        migrations.AddConstraint(
            model_name='round',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('ended_at__isnull', True), ('state', 'running')), models.Q(models.Q(('state', 'running'), _negated=True), ('ended_at__isnull', False), models.Q(('ended_why', ''), _negated=True)), _connector='OR'), name='a_round_that_ended_says_when_and_why'),
        ),
        migrations.AddConstraint(
            model_name='roundcheck',
            constraint=models.UniqueConstraint(fields=('round', 'position'), name='one_check_at_each_position_of_a_round'),
        ),
        migrations.AddConstraint(
            model_name='roundcheck',
            constraint=models.UniqueConstraint(fields=('round', 'item'), name='an_image_is_drawn_once_in_a_round'),
        ),
    ]
