"""What `benchmarks/hostile.py` is made of."""
