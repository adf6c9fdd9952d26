"""Drawings of figures, by gnuplot, as SVG."""

import math
import pathlib
import shutil
import statistics
import subprocess

import peers
from harness import Failed

# Distinguishable also by those who see fewer colours (Okabe and Ito).
COLOURS = ("#0072b2", "#000000", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
FONT = "sans-serif"


def percentiles(path, title, curves):
    """Latencies by the share of requests, as nines; `curves` are for each name several of [(share, ms)], of which the
    median is drawn."""
    nines = [step / 10 for step in range(0, 45)]
    lines = {name: [(at, statistics.median(value_at(curve, at) for curve in several)) for at in nines
                    if at <= min(reach(curve) for curve in several)]
             for name, several in curves.items()}
    draw(path, title, "share of requests that took no longer", "latency, ms", lines, log_y=True,
         extra=['set xtics ("0 %%" 0, "90 %%" 1, "99 %%" 2, "99.9 %%" 3, "99.99 %%" 4)'])


def reach(curve):
    """How many nines the last share before 100 % has."""
    return max((-math.log10(1 - share) for share, _ in curve if share < 1), default=0)


def value_at(curve, nines):
    """The value at the first share that is not less."""
    share = 1 - 10 ** -nines
    return next((ms for at, ms in curve if at >= share - 1e-12), curve[-1][1])


def curves(path, title, across, up, lines, log_x=True, log_y=True, extra=()):
    """Lines with points: {name: [(x, y)]}."""
    draw(path, title, across, up, lines, log_x, log_y, extra, points=True)


def draw(path, title, across, up, lines, log_x=False, log_y=False, extra=(), points=False):
    lines = {name: line for name, line in lines.items() if line}
    if not lines:
        return
    if not shutil.which("gnuplot"):
        peers.need("/usr/bin/gnuplot", "gnuplot-nox")
    if not shutil.which("gnuplot"):
        raise Failed("gnuplot is missing: install gnuplot-nox")
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    script = [
        f"set terminal svg size 860,480 dynamic noenhanced font '{FONT},13' background rgb 'white'",
        f"set output {quoted(path)}",
        f"set title {quoted(title)}",
        f"set xlabel {quoted(across)}",
        f"set ylabel {quoted(up)}",
        "set key outside right top vertical Left reverse samplen 2 spacing 1.2",
        "set grid xtics ytics lc rgb '#d8d8d8' lw 1",
        "set border lc rgb '#606060'",
        "set tics nomirror",
        *(["set logscale x 10"] if log_x else []),
        *(["set logscale y 10"] if log_y else []),
        *extra,
    ]
    style = "linespoints pt 7 ps 0.5" if points else "lines"
    plots = []
    for number, (name, line) in enumerate(lines.items()):
        rows = "\n".join(f"{x!r} {y!r}" for x, y in line)
        script.append(f"$data{number} << EOD\n{rows}\nEOD")
        plots.append(f"$data{number} using 1:2 with {style} lw 2 lc rgb '{COLOURS[number % len(COLOURS)]}'"
                     f" title {quoted(name)}")
    script.append("plot " + ", \\\n  ".join(plots))
    done = subprocess.run(["gnuplot", "-"], input="\n".join(script) + "\n", text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        raise Failed(f"gnuplot: {done.stdout.strip()[-200:]}")


def quoted(text):
    return "'" + str(text).replace("'", "''") + "'"
