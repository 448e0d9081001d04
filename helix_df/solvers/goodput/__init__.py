"""Plans that optimise what users get: tokens generated a second, within limits on latency."""
