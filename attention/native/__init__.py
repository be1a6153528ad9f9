"""Decode attention in C: the file, what compiles it, what loads it, and what a step hands to it.

decode.c     the kernel, a plain shared library without Python or torch in it
build.py     compiles it, when the package is built; runs without the rest of the package
library.py   finds and loads what was built, or says why there is none
rows.py      the rows of a step as the library reads them, and the call
"""
