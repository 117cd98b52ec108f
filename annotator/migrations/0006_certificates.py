import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('annotator', '0005_scoring_shards'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Look',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('number', models.PositiveIntegerField(help_text='1, 2, 3... within the project')),
                ('planned', models.PositiveIntegerField(help_text='its number among the looks in a row with this target')),
                ('answers', models.PositiveIntegerField(help_text='answered random checks it saw')),
                ('target', models.FloatField(help_text='0..1')),
                ('confidence', models.FloatField(help_text='0..1, of all looks together')),
                ('spent', models.FloatField(help_text='its part of the error')),
                ('delta', models.FloatField(help_text='what its certificates may err by: spent, less what choosing models cost')),
                ('strata', models.JSONField(default=dict, help_text='import job (0: none) -> images of it in the pool then')),
                ('preview', models.JSONField(default=dict, help_text='what a lower target would have let through: target, count')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('model_version', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='looks', to='annotator.modelversion')),
                ('project', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='looks', to='annotator.project')),
            ],
            options={
                'ordering': ('-number',),
                'constraints': [models.UniqueConstraint(fields=('project', 'number'), name='look_numbers_differ')],
            },
        ),
        migrations.CreateModel(
            name='Certificate',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('threshold', models.FloatField(help_text="0..1, of the model's own confidence, before a temperature")),
                ('n', models.PositiveIntegerField(help_text='random checks in the region')),
                ('k', models.PositiveIntegerField(help_text='of those, right')),
                ('rest', models.PositiveIntegerField(help_text='images nobody had answered')),
                ('answered', models.PositiveIntegerField(help_text='images people had answered otherwise than as random checks')),
                ('bound', models.FloatField(help_text='at least so much is right, 0..1; follows the answers')),
                ('target', models.FloatField(help_text='0..1')),
                ('confidence', models.FloatField(help_text='0..1')),
                ('delta', models.FloatField(help_text="its part of the look's")),
                ('checks', models.JSONField(default=dict, help_text='item id of a random check -> class id predicted')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('accepted_at', models.DateTimeField(help_text='when its labels were accepted; null: they are not', null=True)),
                ('ended_at', models.DateTimeField(null=True)),
                ('ended_why', models.CharField(blank=True, max_length=300)),
                ('ended_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('label_class', models.ForeignKey(help_text='null: any class', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='annotator.labelclass')),
                ('look', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='certificates', to='annotator.look')),
                ('project', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='certificates', to='annotator.project')),
            ],
            options={
                'ordering': ('-id',),
                'constraints': [
                    models.CheckConstraint(condition=models.Q(('ended_at__isnull', True), models.Q(('ended_why', ''), _negated=True), _connector='OR'), name='a_certificate_that_ended_says_why'),
                    models.CheckConstraint(condition=models.Q(('ended_at__isnull', True), ('accepted_at__isnull', True), _connector='OR'), name='nothing_is_accepted_under_a_certificate_that_ended'),
                ],
                'indexes': [models.Index(condition=models.Q(('ended_at__isnull', True)), fields=['project', '-id'], name='standing_certificates')],
            },
        ),
        migrations.AddField(
            model_name='proposal',
            name='certificate',
            field=models.ForeignKey(help_text='under which it was accepted unseen; pending with one: given back to people', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='proposals', to='annotator.certificate'),
        ),
        migrations.AddConstraint(
            model_name='proposal',
            constraint=models.UniqueConstraint(condition=models.Q(('state', 'auto_accepted')), fields=('item',), name='one_automatic_acceptance_per_item'),
        ),
        migrations.AddConstraint(
            model_name='proposal',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('state', 'auto_accepted'), _negated=True), ('certificate__isnull', False), _connector='OR'), name='nothing_is_accepted_unseen_without_a_certificate'),
        ),
    ]
