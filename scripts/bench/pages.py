"""Pages of docs/ that are written from measurements: tables, drawings, and on which machine all of it was seen."""

import datetime
import os
import pathlib
import platform
import re
import subprocess
import time

import plots
from harness import ROOT


# More work of others than this is said in bold.
OTHERS = 0.2


def said(*command):
    try:
        done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT)
    except OSError:
        return ""
    return (done.stdout.strip().splitlines() or [""])[0]


def machine():
    """What a reader must know to expect the same."""
    cpus = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpus)
    info = dict(re.findall(r"(\w+): +(\d+)", pathlib.Path("/proc/meminfo").read_text()))
    system = re.search(r'PRETTY_NAME="(.*)"', pathlib.Path("/etc/os-release").read_text())
    virtual = " (a virtual machine)" if "hypervisor" in cpus else ""
    return (f"{os.cpu_count()} × {model[1] if model else platform.machine()}{virtual}, "
            f"{int(info['MemTotal']) / (1 << 20):.0f} GiB, Linux {platform.release()}, {system[1] if system else '?'}")


def busy():
    """Which share of its processors others use, over a second: the load average still tells of the section before."""
    def ticks():
        fields = [int(word) for word in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    before, idle = ticks()
    time.sleep(1)
    after, idle_after = ticks()
    return 1 - (idle_after - idle) / max(after - before, 1)


def tree():
    changed = "" if not said("git", "status", "--porcelain", "--untracked-files=no") else " and what was not committed yet"
    return f"`{said('git', 'rev-parse', '--short=12', 'HEAD')}`{changed}"


def table(heads, rows):
    """A Markdown table, the first column to the left and the others to the right."""
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


class Page:
    """A page of sections. Those that are not measured this time stay as they are in the file."""

    def __init__(self, path, title, command, order, drawings=None):
        self.path, self.title, self.command, self.order = pathlib.Path(path), title, command, list(order)
        self.drawings = pathlib.Path(drawings or self.path.parent / "plots")
        self.sections = self._former()
        self.parts, self.key = [], None

    def _former(self):
        text = self.path.read_text() if self.path.exists() else ""
        found = re.findall(r"<!-- begin (\S+) -->\n(.*?)<!-- end -->\n", text, re.DOTALL)
        return {key: part.rstrip("\n") + "\n" for key, part in found if key in self.order}

    def section(self, key, title, commands, words):
        """Begins a section; everything after belongs to it, until it is `done`."""
        self.key, self.busy, self.began = key, busy(), datetime.datetime.now(datetime.timezone.utc)
        self.parts = []
        self.heading = title, commands, words
        return self

    def done(self):
        """The section is measured."""
        title, commands, words = self.heading
        took = (datetime.datetime.now(datetime.timezone.utc) - self.began).total_seconds()
        seen = (f"{self.began:%Y-%m-%d %H:%M} UTC, in {took:,.0f} s, of {tree()}, on {machine()}; others used {self.busy:.0%} of it "
                "before it began.")
        if self.busy > OTHERS:
            seen += "\n**That is much: rates are low, times long and ratios wide. To be measured again.**"
        commands = "\n".join(f"    {command}" for command in commands)
        self.sections[self.key] = "\n".join([f"## {title}\n", f"{commands}\n", f"{seen}\n", f"{words.strip()}\n", *self.parts])

    def words(self, text):
        self.parts.append(f"{text.strip()}\n")

    def table(self, heads, rows):
        self.parts.append(table(heads, rows))

    def curve_table(self, first, points, columns):
        """A row for each point of a curve; `columns` are (key, heading, decimals)."""
        present = [column for column in columns if any(column[0] in figures for figures in points.values())]
        rows = [[f"{point:,}", *(f"{figures[key]:,.{decimals}f}" if key in figures else "" for key, _, decimals in present)]
                for point, figures in points.items()]
        self.table([first, *(head for _, head, _ in present)], rows)

    def plot(self, name, title, across, up, lines, log_x=True, log_y=True):
        file = self.drawings / f"{name}.svg"
        plots.curves(file, title, across, up, lines, log_x, log_y)
        self.picture(file, title)

    def picture(self, file, title):
        if pathlib.Path(file).exists():
            self.parts.append(f"![{title}](plots/{pathlib.Path(file).name})\n")

    def ends(self, broken, points):
        """Where each went no further, and what it said."""
        for who, ended in broken.items():
            for point, why in sorted(ended.items())[:1]:
                self.words(f"**{who} went no further than below {point:,}:** {why}")
            if not ended:
                self.words(f"{who} reached the last point, {max(points):,}.")

    def write(self, words):
        """The file: the words for everything, then the sections in their order."""
        head = f"""# {self.title}

Written by `{self.command}`; what is changed here by hand is lost with the next run. A section that is measured alone
replaces its own.

Each section says on which machine. {said('rustc', '--version')}.

{words.strip()}
"""
        parts = [f"<!-- begin {key} -->\n{self.sections[key]}\n<!-- end -->\n" for key in self.order if key in self.sections]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("\n".join([head, *parts]))
        print(f"wrote {self.path}", flush=True)
