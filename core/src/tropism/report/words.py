"""Numbers as a reader wants them: three significant digits, a true minus sign, durations in words."""

from __future__ import annotations

import math

from tropism.report.read import Interval

MINUS, DASH, TIMES = "\N{MINUS SIGN}", "\N{EN DASH}", "\N{MULTIPLICATION SIGN}"


def number(value: float | None) -> str:
    """Three significant digits: ``1.52``, ``0.0310``, ``12,400``, ``3.1e-05``; a dash where there is no finite value."""
    if value is None or not math.isfinite(value):
        return DASH
    size = abs(value)
    if 0 < size < 1e-3 or size >= 1e6:
        text = f"{value:.1e}"
    elif size >= 999.5:
        text = f"{value:,.0f}"
    else:
        text = f"{value:#.3g}".rstrip(".") if value else "0"
    return signed(text, value)


def signed(text: str, value: float) -> str:
    """``text``, the digits of ``value``, with a true minus sign; the one in an exponent stays as it is."""
    return text.replace("-", MINUS, 1) if value < 0 else text


def percent(fraction: float) -> str:
    """A signed change: 0.37 is ``+37 %``; below ten percent with one decimal."""
    decimals = 0 if abs(fraction) >= 0.0995 else 1
    return f"{fraction * 100:+.{decimals}f} %".replace("-", MINUS)


def change(before: Interval, after: Interval) -> str:
    """The change of the mean: relative where both are positive, else the difference (a ratio of negative scores misleads)."""
    if not (math.isfinite(before.mean) and math.isfinite(after.mean)):
        return DASH
    if before.mean > 0 and after.mean > 0:
        return percent(after.mean / before.mean - 1)
    difference = after.mean - before.mean
    return ("+" if difference > 0 else "") + number(difference)


def bounds(interval: Interval) -> str:
    """``1.48 - 1.57`` (with an en dash), or nothing where the metric has no interval, or one without width."""
    if interval.low is None or interval.high is None or not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return ""
    if interval.low == interval.high:
        return ""
    return f"{number(interval.low)} {DASH} {number(interval.high)}"


def duration(seconds: float) -> str:
    """``0.4 s``, ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(name: str) -> str:
    """A metric's name without its modality: ``image/jpeg-size`` is ``jpeg-size``."""
    return name.rsplit("/", 1)[-1]
