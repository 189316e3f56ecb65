"""``python -m tiler``."""

from tiler.command.cli import main

if __name__ == "__main__":
    main()
