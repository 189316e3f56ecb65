"""What a benchmark leaves behind: the machine in a line, a table in Markdown, a chart as PNG."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from measure import available_cores

ACCENT, PLAIN = "#c8553d", "#8a9ba8"
PACKAGES = ("tensorflow", "keras", "jax", "torch", "diffusers", "onnxruntime", "openvino")


def describe_machine(n_cores: int | None = None) -> str:
    """Return the processor, the cores in use and the versions of what takes part."""
    cpu_info = Path("/proc/cpuinfo")
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    parts = [f"{processor or platform.machine()}, cores used: {n_cores or len(available_cores())}"]
    for package in PACKAGES:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a Markdown table; the first column is text, the others are numbers."""
    cells = [list(headers), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    click.echo("")
    for number, row in enumerate(cells):
        aligned = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo(f"| {' | '.join(aligned)} |")
        if number == 0:
            click.echo(f"|{'|'.join('-' * (width + 1) + (':' if i else '-') for i, width in enumerate(widths))}|")
    click.echo("")


def megabytes(size_bytes: float) -> str:
    """Return a size in MB."""
    return f"{size_bytes / 1e6:,.0f}"


def draw_bars(path: Path, title: str, panels: Mapping[str, Mapping[str, float]], *, accent: str | None = None) -> None:
    """Write a chart with a horizontal bar a value, the first on top.

    Args:
        path: the PNG.
        title: the question.
        panels: one below the other: for what its bars show, with the unit, the values by name.
        accent: the name whose bar stands out.
    """
    heights = [1.1 + 0.4 * len(values) for values in panels.values()]
    figure, grid = _start(title, height=0.3 + sum(heights), ratios={"height_ratios": heights}, n_rows=len(panels))
    for axes, (label, values) in zip(grid.flat, panels.items(), strict=True):
        colours = [ACCENT if name == accent else PLAIN for name in values]
        bars = axes.barh(range(len(values)), list(values.values()), color=colours, height=0.65)
        axes.bar_label(bars, fmt="%.3g", padding=4)
        axes.set_yticks(range(len(values)), list(values))
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlabel(label)
    figure.savefig(path)


def draw_lines(
    path: Path,
    title: str,
    x_label: str,
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    *,
    accent: str | None = None,
    log_x: bool = True,
) -> None:
    """Write a chart with a panel for each quantity, side by side.

    Args:
        path: the PNG.
        title: the question.
        x_label: what all panels have on their x axis.
        panels: for the label of a y axis, the lines by name: their x and their y.
        accent: the name whose line stands out.
        log_x: whether x is logarithmic, with a tick at each measured value.
    """
    figure, grid = _start(title, width=5.2 * len(panels), height=4.2, n_columns=len(panels))
    for axes, (y_label, lines) in zip(grid.flat, panels.items(), strict=True):
        ticks: set[float] = set()
        for number, (name, (x, y)) in enumerate(lines.items()):
            colour = ACCENT if name == accent or len(lines) == 1 else f"C{number}"
            axes.plot(x, y, marker="o", color=colour, label=name)
            ticks.update(x)
        if log_x:
            axes.set_xscale("log", base=2)
            axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
            axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(lines) > 1:
            axes.legend(frameon=False)
    figure.savefig(path)


def _start(
    title: str,
    *,
    height: float,
    width: float = 7.5,
    n_rows: int = 1,
    n_columns: int = 1,
    ratios: dict[str, Any] | None = None,
) -> tuple[Any, Any]:
    # No pyplot: it would look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False, gridspec_kw=ratios)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid
