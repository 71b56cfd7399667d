"""Images for tropism."""
