"""Meshes from files: read within bounds, turned upright, repaired where that is safe."""
