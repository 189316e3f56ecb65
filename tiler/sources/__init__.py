"""Where values come from, window by window; ``source.py`` has the contract, ``opening.py`` the one way in."""
