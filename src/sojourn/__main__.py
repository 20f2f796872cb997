"""``python -m sojourn``: the command line, where its script is not on the PATH."""

from sojourn.console.main import main

if __name__ == "__main__":
    main()
