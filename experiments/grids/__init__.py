"""Grid files: each has a docstring with its question and `get_grid(argument) -> Grid`. Run one with experiments.ablate.

The argument is a data set of `datasets.py`, alone or with what the config file is to be given: `lastfm:t5-small`.
"""
