"""The next tokens of a step in C: the file, and what loads and calls it.

draw.c       a plain shared library without Python or torch in it, built as the attention's is
drawing.py   finds and loads what was built, or says why there is none; packs rows for it
"""
