"""Plans and searches as pictures: SVG for pages, characters for terminals."""
