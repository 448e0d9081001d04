"""Settings of all properties."""

from hypothesis import settings

# Shared machines stall: how long an example takes says nothing. What should be fast has a benchmark.
settings.register_profile("helix", deadline=None)
settings.load_profile("helix")
