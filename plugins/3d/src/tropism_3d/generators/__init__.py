"""Generators: factories that build policies."""
