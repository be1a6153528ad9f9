"""The needle sweep: its cells, who runs them, and the figures that come of it."""
