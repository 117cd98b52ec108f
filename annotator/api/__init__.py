"""The same doors and actions as the pages, in JSON. An endpoint fetches and authorises through access.py, calls one
action or query, and shapes the answer.
"""
