"""The command line: commands, options, errors in one line; the demo."""
