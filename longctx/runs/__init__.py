"""A run from its options to a finished folder, and what people read meanwhile."""
