"""The report: one HTML file that shows what a run did, offline, with curves, samples and numbers.

``build`` makes the page of one run, ``compare`` the same page for several runs side by side, ``steered`` that of steered samples.
"""

from tropism.report.page import build, compare
from tropism.report.samples import View
from tropism.report.steering import build as steered

__all__ = ["View", "build", "compare", "steered"]
