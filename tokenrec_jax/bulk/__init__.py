"""Recommendations for every user of a run. `ranking.py` ranks users in batches, `job.py` makes one file of them."""
