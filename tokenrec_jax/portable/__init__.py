"""A trained model as one StableHLO program: histories in, items out, without this package.

`artefact.py` writes the folder, `loader.py` is the file in it that reads the others with jax and numpy alone.
"""
