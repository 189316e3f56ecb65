"""Weights of the project's own: variant ``photo``, trained on photographs; see the metadata of the files."""
