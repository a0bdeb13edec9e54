"""A demonstration that needs nothing: clips of known damage, what a model says, one page."""
