# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Metrics on the host, as files that Prometheus's node exporter reads (its textfile collector)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Union

from .errors import ScutumError
from .files import write_file

# Where Debian's prometheus-node-exporter looks; other packages are told with --collector.textfile.directory.
DIRECTORY = "/var/lib/prometheus/node-exporter"

# Help text, labels, value; a list of them where one metric has several series.
Gauge = tuple[str, Mapping[str, str], float]
Gauges = Union[Gauge, list[Gauge]]


def file(directory: str, name: str) -> str:
    """Where the gauges of a name are."""
    return os.path.join(directory, name + ".prom")


def write(directory: str, name: str, metrics: Mapping[str, Gauges]) -> str:
    """Put gauges into `<directory>/<name>.prom`, at once as a whole; the path.

    Args:
        metrics: by name: help text, labels, value; or a list of those.
    """
    if not os.path.isdir(directory):
        raise ScutumError(
            f"{directory}, where the metrics go, does not exist",
            left="no metric was written",
            next_step="run playbooks/license.yml, or name the node exporter's directory in scutum_metrics_directory",
        )
    lines = []
    for metric, given in metrics.items():
        series = given if isinstance(given, list) else [given]
        if series:
            lines += [f"# HELP {metric} {series[0][0]}", f"# TYPE {metric} gauge"]
        for unused, labels, value in series:
            pairs = ",".join(f'{key}="{_escaped(label)}"' for key, label in sorted(labels.items()))
            shown = int(value) if float(value).is_integer() else value
            lines.append(f"{metric}{'{' + pairs + '}' if pairs else ''} {shown}")
    path = file(directory, name)
    write_file(path, "\n".join(lines) + "\n", 0o644)
    return path


def _escaped(text: Any) -> str:
    return str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
