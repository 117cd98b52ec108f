"""Dates as English reads them here: the day first, the month in letters, so that nobody takes one for the other."""

DATE_FORMAT = "j M Y"
DATETIME_FORMAT = "j M Y, H:i"
TIME_FORMAT = "H:i"
