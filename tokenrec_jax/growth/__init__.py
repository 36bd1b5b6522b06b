"""New interactions, users and items for a finished run, without training.

`rows.py` reads what callers hand over, `catalogue.py` is the host's half of the grown state (ids, histories, edges),
`tables.py` the devices' half (vectors, codes, index), `propagation.py` the arithmetic between the two. Read
`catalogue.Catalogue` first, then `tables.Tables`. The object that holds them is `recommender.py`.
"""
