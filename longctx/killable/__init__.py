"""Processes for work that may never end: asked in lines, and ended from outside or within."""
