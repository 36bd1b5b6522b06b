"""Evaluation that cannot lie: held-out newest items, full-catalogue ranks, ties and NaN against us.

`protocols.py` says who is ranked on what, `ranking.py` turns scores into ranks and ranks into metrics,
`evaluator.py` runs a score function over all users. Read `evaluator.evaluate` first. `statistics.py` tells how sure a
figure is, `comparability.py` has the protocols that only serve to compare with figures of others.
"""
