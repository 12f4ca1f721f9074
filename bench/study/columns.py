"""The table's columns: heading and format of each figure."""

from __future__ import annotations

#: A metric -> its column in `tables`, where `precision` is a number format.
COLUMNS = {
    "fid": "fid",
    "sfid": "sfid",
    "inception_score": "inception_score",
    "precision": "quality_precision",
    "recall": "recall",
    "class_accuracy": "class_accuracy",
    "musiq": "musiq",
    "clipiqa": "clipiqa",
    "niqe": "niqe",
}


# How each figure is headed and rounded; the order is that of the table.
FIGURES = {
    "speedup": ("speed-up", "{:.2f}x"),
    "latency_s": ("latency s", "{:.3g}"),
    "latency_spread": ("spread", "{:.1%}"),
    "throughput_img_s": ("images/s", "{:.3g}"),
    "sustained_img_s": ("sustained images/s", "{:.3g}"),
    "batch_p50_s": ("batch p50 s", "{:.3g}"),
    "batch_p90_s": ("p90 s", "{:.3g}"),
    "batch_p99_s": ("p99 s", "{:.3g}"),
    "energy_j_per_image": ("J/image", "{:.3g}"),
    "params_mib": ("params MiB", "{:.0f}"),
    "kv_cache_mib": ("KV cache MiB", "{:.1f}"),
    "running_mib": ("running MiB", "{:.0f}"),
    "total_mib": ("total MiB", "{:.0f}"),
    "fid": ("FID", "{:.2f}"),
    "sfid": ("sFID", "{:.2f}"),
    "inception_score": ("IS", "{:.3g}"),
    "quality_precision": ("precision", "{:.2f}"),
    "recall": ("recall", "{:.2f}"),
    "class_accuracy": ("class accuracy", "{:.1%}"),
    "musiq": ("MUSIQ", "{:.2f}"),
    "clipiqa": ("CLIPIQA", "{:.4f}"),
    "niqe": ("NIQE", "{:.4f}"),
}
