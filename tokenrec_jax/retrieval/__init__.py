"""Exact retrieval: the k best items of each query. Knows vectors, ids and k, not where they come from.

`search.py` holds the arithmetic as pure functions, `index.py` the item vectors in the form in which they are
searched. Read `search.top_k` first.
"""
