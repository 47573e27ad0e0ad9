"""Generation: a prompt, a cache of fixed size, one loop."""
