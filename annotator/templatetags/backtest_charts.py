"""The curves of backtest_charts.py in templates."""

from django import template

from annotator import backtest_charts

register = template.Library()
register.simple_tag(backtest_charts.curves_chart)
register.simple_tag(backtest_charts.key, name="curve_key")
