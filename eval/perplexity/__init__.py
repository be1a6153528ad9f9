"""The loss of every token of long texts, and the figures that come of it."""
