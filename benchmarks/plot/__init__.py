"""Charts as SVG, which every browser shows and which needs no further package."""
