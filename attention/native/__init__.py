"""Attention in C: the files, what compiles and loads them, and what is handed to them.

common.h     types of numbers and shared work, for the C files of every room
levels.h     compiles a file once for each instruction set
decode.c     rows of one query; a plain shared library without Python or torch in it
prefill.c    blocks of queries, a library as well
round.c      floats to rows of int8, a third one
build.py     compiles them, when the package is built; runs without the rest of the package
library.py   finds and loads what was built, or says why there is none
rows.py      the rows of a step as decode.c reads them, and the call
blocks.py    blocks of queries as prefill.c reads them, and the call
rounding.py  the call of round.c
"""
