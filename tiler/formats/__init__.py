"""Where pixels go: files written in any order, from many threads or processes; ``sink.py`` has the contract."""
