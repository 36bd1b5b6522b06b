"""What `experiments/benchmark.py` measures, one file a suite."""
