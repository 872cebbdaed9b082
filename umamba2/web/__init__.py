"""A page in the browser, and the server behind it: open a scan, segment it, guide the canals by clicks, save.

A browser holds one *study*: a scan and what was found in it (`studies`). What takes time is a *task* (`tasks`), and one
runs at a time. `routes` is the interface that the page uses, `gate` decides who may use it, `app` puts it together.
"""
