"""Exact retrieval: the k best items of each query. Knows vectors, ids and k, not where they come from.

Read `search.top_k` first, which cuts the work over devices. `tiles.py` has the arithmetic on one of them,
`selection.py` the rules of what may be recommended, `index.py` the item vectors as an object that is searched, grown
and saved, `storage.py` and `files.py` how it holds them in memory and on disk.
"""
