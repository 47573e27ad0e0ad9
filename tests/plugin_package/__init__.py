"""A plug-in as a user would write it: a source, an optimizer and a model of its own, named in a YAML."""
