"""Tests of the workspace; ``tests.tiny`` builds models small enough for them."""
