"""A small shop whose jobs run on Duly: the demo of ``make demo``, and an example to read.

Read it in this order::

    tasks.py      the jobs: what most of an application's use of Duly looks like
    models.py     the shop's own tables, in the same database
    day.py        a day, scene by scene: enqueue, work, kill a worker
    report.py     what must agree at its end: what was due, the ledger, and the outside world

Around them: ``mail.py``, ``photos.py`` and ``airports.py``, what the tasks work on; ``sink.py``, the mail
server that the demo starts; ``workers.py``, the supervisor that it starts; ``opening.py``, which makes
the tables; ``count.py`` and ``progress.py``, which look; ``play.py``, which puts them together.
"""
