"""What a person may say, on a command line, in a file or the environment: each option once.

`declare` is the language; the other modules are what commands, runs, models and the engine share.
Nothing heavy is imported, and no library of the command line.
"""
