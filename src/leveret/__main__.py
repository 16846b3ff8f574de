"""`python -m leveret` is the `leveret` command."""

from leveret.broker.cli import main

if __name__ == "__main__":
    main()
