"""Launchers: who starts workers. A new one is one file here and one line in ``registry``, or an entry point."""
