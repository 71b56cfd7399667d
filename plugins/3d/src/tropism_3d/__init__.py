"""3D objects for tropism."""
