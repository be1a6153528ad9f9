"""A run on disk: its lock, its records, and what can be made of them again."""
