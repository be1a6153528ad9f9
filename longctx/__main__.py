"""`python -m longctx`: the same command, for a clone that is not installed."""

from longctx.cli import main

if __name__ == "__main__":
    main()
