"""The words of the command line, a file each. `longctx --help` reads them: nothing heavy."""
