"""Where a token stands: counted, and then learned, computed, turned or taken for a bias."""
