"""Physics: what a simulator says of a shape that is put on the floor and nudged."""
