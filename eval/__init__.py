"""The questions: haystacks, tasks, scoring, runs that survive a kill, and their figures.

A model is seen through `protocol.Session` only, so that a scripted fake, the
local model and a remote endpoint are the same thing here. Importing this package loads no torch.
"""
