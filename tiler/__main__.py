"""``python -m tiler``."""

from tiler.cli import main

if __name__ == "__main__":
    main()
