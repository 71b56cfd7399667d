"""Tests of steering: exact problems, and the defects of released code."""
