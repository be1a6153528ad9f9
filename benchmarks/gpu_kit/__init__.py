"""The sections of benchmarks/gpu.py: what a GPU machine of minutes is asked, in order of worth."""
