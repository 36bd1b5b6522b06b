"""Evaluation that cannot lie: held-out newest items, full-catalogue ranks, ties and NaN against us.

`protocols.py` says who is ranked on what, `ranking.py` turns scores into ranks and ranks into metrics,
`evaluator.py` runs a score function over all users. Read `evaluator.evaluate` first.
"""
