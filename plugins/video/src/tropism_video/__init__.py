"""Video for tropism."""
