"""Recommenders to beat, on the same data, split and evaluator as the model.

Each function takes what may be trained on, `interactions.without_last(2)`, or vectors trained on it, and
returns a score function for `evaluation.evaluator.evaluate`. `sasrec.py` and `tiger.py` are models instead, which
`experiments/baseline.py` trains.
"""
