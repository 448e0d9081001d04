"""Plans: what one says, its versioned file, what can be wrong with it, and what changes between two."""
