from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('annotator', '0007_say_bald'),
    ]

    operations = [
        migrations.AlterField(
            model_name='queueentry',
            name='reason_code',
            field=models.CharField(choices=[('audit', 'Random check'), ('typical', 'Typical of many'), ('close_call', 'Close call'), ('unsure', 'The model is unsure'), ('disputed', 'Disputed'), ('unlike', 'Unlike anything labelled'), ('scarce', 'More of a scarce class'), ('random', 'Picked at random'), ('returned', 'Back in the queue')], max_length=16),
        ),
    ]
