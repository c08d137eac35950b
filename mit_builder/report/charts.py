"""The page's charts: Vega-Lite specifications, drawn as SVG by vl-convert.

Colours are CSS variables and `currentColor`, so one drawing serves light and dark. Nothing runs when the page is
viewed, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mit_builder.report.figures import Figures

WIDTH_PX, HEIGHT_PX = 340, 170
"""Outer size of a chart: fits a phone of 390 px."""
_ACCENT = "var(--accent)"
_AXIS = {
    "labelColor": "currentColor",
    "titleColor": "currentColor",
    "domainColor": "var(--line)",
    "tickColor": "var(--line)",
    "gridColor": "var(--grid)",
    "labelFontSize": 11,
    "titleFontSize": 11,
    "titleFontWeight": "normal",
    "labelLimit": 130,
}
_CONFIG = {"axis": _AXIS, "view": {"stroke": None}, "font": "system-ui, sans-serif", "background": None}

Spec = dict[str, Any]
Chart = dict[str, str]


def charts(figures: Figures) -> dict[str, Chart]:
    """SVG and a sentence for each chart that has something to show."""
    specs = {name: spec for name, spec in _specs(figures).items() if spec is not None}
    return {name: {"svg": _svg(spec), "says": says} for name, (spec, says) in specs.items()}


def _svg(spec: Spec) -> str:
    import vl_convert

    whole = {"autosize": {"type": "fit", "contains": "padding"}, "width": WIDTH_PX, "height": HEIGHT_PX, **spec}
    return str(
        vl_convert.vegalite_to_svg(
            {**whole, "padding": {"left": 10, "right": 6, "top": 4, "bottom": 2}, "config": _CONFIG}
        )
    )


def _specs(figures: Figures) -> dict[str, tuple[Spec, str] | None]:
    found = figures["distributions"]
    share = "share of frames"
    return {
        "funnel": _funnel(figures["funnel"]),
        "length_s": _histogram(found["length_s"], "seconds", "clips", "Lengths of the clips"),
        "people": _bars(found["people"], "people in a clip", "clips", "Clips by number of people"),
        "resolution": _bars_across(found["resolution"], "clips", "Clips by size of the picture"),
        "talk_share": _histogram(found["talk_share"], share, "people", "Share of time in which a person speaks"),
        "turns_per_min": _histogram(found["turns_per_min"], "turns a minute", "clips", "Changes of the sole speaker"),
        "overlap": _histogram(
            found["overlap"], "share of spoken frames", "clips", "Overlap: two or more speak at once"
        ),
        "silence": _histogram(found["silence"], share, "clips", "Silence: nobody speaks"),
        "body_visible": _histogram(
            found["body_visible"], "share of 17 body points seen", "people", "How much of a person is seen"
        ),
        "pose_scores": _quantiles(found["pose_scores"]),
        "costs": _costs(figures["costs"]),
        **{
            f"margin_{reason}": _margin(histogram, figures["drops"], reason)
            for reason, histogram in figures["margins"].items()
        },
    }


def _funnel(steps: Sequence[Mapping[str, Any]]) -> tuple[Spec, str] | None:
    rows = [{"step": step["name"], "hours": step["hours"]} for step in steps if step["hours"] is not None]
    if not any(row["hours"] for row in rows):
        return None
    top = max(row["hours"] for row in rows)
    encoding = {
        "y": {"field": "step", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 140}},
        "x": {
            "field": "hours",
            "type": "quantitative",
            "title": "hours",
            "axis": {"tickCount": 4, "format": "~g"},
            "scale": {"domain": [0, 1.3 * top], "nice": False},
        },
    }
    layers = [
        {"mark": {"type": "bar", "color": _ACCENT, "cornerRadiusEnd": 2}},
        {
            "mark": {"type": "text", "align": "left", "dx": 4, "color": "currentColor", "fontSize": 11},
            "encoding": {"text": {"field": "hours", "type": "quantitative", "format": ".3~r"}},
        },
    ]
    return {"data": {"values": rows}, "encoding": encoding, "layer": layers}, "Hours that are left after each step"


def _histogram(histogram: Mapping[str, Sequence[float]], x: str, y: str, says: str) -> tuple[Spec, str] | None:
    edges, counts = histogram["edges"], histogram["counts"]
    if not any(counts):
        return None
    rows = [{"from": a, "to": b, "n": n} for a, b, n in zip(edges, edges[1:], counts, strict=False)]
    encoding = {
        "x": {
            "field": "from",
            "type": "quantitative",
            "bin": {"binned": True, "step": edges[1] - edges[0]},
            "title": x,
            "axis": {"tickCount": 5, "format": "~g", "labelOverlap": True, "labelSeparation": 6},
        },
        "x2": {"field": "to"},
        "y": {"field": "n", "title": y, **_count(counts)},
    }
    return {"data": {"values": rows}, "mark": {"type": "bar", "color": _ACCENT}, "encoding": encoding}, says


def _count(counts: Iterable[float]) -> Spec:
    """An axis of whole numbers: Vega's own ticks may lie between them."""
    top = max(counts)
    step = next(base * 10**power for power in range(12) for base in (1, 2, 5) if top <= 5 * base * 10**power)
    ticks = list(range(0, int(top) + step, step))
    return {"type": "quantitative", "axis": {"values": ticks, "format": "~s"}, "scale": {"domain": [0, max(ticks)]}}


def _bars(counts: Mapping[str, int], x: str, y: str, says: str) -> tuple[Spec, str] | None:
    if not counts:
        return None
    encoding = {
        "x": {"field": "x", "type": "ordinal", "title": x, "axis": {"labelAngle": 0}, "scale": {"paddingInner": 0.3}},
        "y": {"field": "n", "title": y, **_count(counts.values())},
    }
    rows = [{"x": name, "n": n} for name, n in counts.items()]
    mark = {"type": "bar", "color": _ACCENT, "width": {"band": min(1.0, 0.2 * len(rows))}}
    return {"data": {"values": rows}, "mark": mark, "encoding": encoding}, says


def _bars_across(counts: Mapping[str, int], x: str, says: str) -> tuple[Spec, str] | None:
    if not counts:
        return None
    encoding = {
        "y": {"field": "y", "type": "nominal", "sort": None, "title": None},
        "x": {"field": "n", "title": x, **_count(counts.values())},
    }
    rows = [{"y": name, "n": n} for name, n in counts.items()]
    mark = {"type": "bar", "color": _ACCENT, "height": {"band": min(0.8, 0.2 * len(rows))}}
    return {"data": {"values": rows}, "mark": mark, "encoding": encoding}, says


def _quantiles(groups: Mapping[str, Sequence[float] | None]) -> tuple[Spec, str] | None:
    rows = [
        dict(zip(("group", "p5", "p25", "p50", "p75", "p95"), (name, *five), strict=True))
        for name, five in groups.items()
        if five
    ]
    if not rows:
        return None
    y = {"field": "group", "type": "nominal", "sort": None, "title": None}
    scale = {"domain": [0, 1]}
    x = {
        "field": "p5",
        "type": "quantitative",
        "title": "mean score of a clip",
        "scale": scale,
        "axis": {"tickCount": 5},
    }
    layers = [
        {"mark": {"type": "rule", "color": _ACCENT}, "encoding": {"x": x, "x2": {"field": "p95"}}},
        {
            "mark": {"type": "bar", "color": _ACCENT, "opacity": 0.55, "size": 16},
            "encoding": {"x": {**x, "field": "p25"}, "x2": {"field": "p75"}},
        },
        {
            "mark": {"type": "tick", "color": "currentColor", "thickness": 2, "size": 18},
            "encoding": {"x": {**x, "field": "p50"}},
        },
    ]
    says = "Confidence of keypoints by group: median, middle half and 5th to 95th percentile of the clips"
    return {"data": {"values": rows}, "encoding": {"y": y}, "layer": layers}, says


def _costs(costs: Sequence[Mapping[str, Any]]) -> tuple[Spec, str] | None:
    rows = [{"step": row["step"], "s": row["per_accepted_s"]} for row in costs if row["per_accepted_s"]]
    if not rows:
        return None
    encoding = {
        "y": {"field": "step", "type": "nominal", "sort": None, "title": None},
        "x": {"field": "s", "type": "quantitative", "title": "seconds of work", "axis": {"tickCount": 5}},
    }
    says = "Work for each second of the dataset"
    return {"data": {"values": rows}, "mark": {"type": "bar", "color": _ACCENT}, "encoding": encoding}, says


def _margin(
    histogram: Mapping[str, Sequence[float]], drops: Sequence[Mapping[str, Any]], reason: str
) -> tuple[Spec, str] | None:
    drop = next((row for row in drops if row["reason"] == reason and "setting" in row), None)
    found = _histogram(histogram, "measured / threshold (2 and above in the last bar)", "candidates", "")
    if drop is None or found is None:
        return None
    rule = {
        "mark": {"type": "rule", "color": "var(--bad)", "strokeDash": [4, 3], "strokeWidth": 2},
        "encoding": {"x": {"datum": 1, "type": "quantitative"}},
    }
    bars = {key: found[0][key] for key in ("mark", "encoding")}
    says = f"Rejected as {reason}: measured values over {drop['setting']} = {drop['limit']:g}"
    return {"data": found[0]["data"], "layer": [bars, rule]}, says
