"""The charts of charts.py in templates."""

from django import template

from annotator import charts

register = template.Library()
register.simple_tag(charts.accuracy_chart)
register.simple_tag(charts.share_bar)
register.simple_tag(charts.amount_bar)
register.simple_tag(charts.training_chart)
register.simple_tag(charts.trend)
register.simple_tag(charts.reliability_chart)
register.simple_tag(charts.columns_chart)
