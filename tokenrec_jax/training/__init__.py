"""Training: losses, the one train step, what stages hand on, the loop, checkpoints.

`step.py` says what happens in one step, `loop.py` in one stage, `run.py` in a whole run. Metrics that rank items come
in as callables: nothing here imports `evaluation`.
"""
