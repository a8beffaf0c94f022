"""Progress and results of a search in the terminal, or as plain lines in a log."""

import math
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import rich.console
from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from tkd_search.engine.search_state import SearchState
from tkd_search.masking import masked
from tkd_search.results.costs import CostName
from tkd_search.results.failure_reasons import reason_lines
from tkd_search.results.records import FrontMember, SearchRecord
from tkd_search.results.summary import RECORD_FILE, epochs_spent
from tkd_search.tracking.uri import run_url
from tkd_search.units import human_bytes, metric_text, milliseconds, percent, ratio_text

_COLUMNS: Mapping[CostName, tuple[str, ...]] = {
    "bytes": ("trial", "student", "method", "size", "ratio", "val", "test", "kept"),
    "latency": ("trial", "student", "method", "ms", "size", "val", "test", "kept"),
}
_OPTIONAL, _NARROW = ("method", "ratio"), 70
"""Columns that the front's table omits on terminals of fewer characters a line."""
_LINES_OF_A_STAGE = 20


class Console:
    """Shows progress bars on a terminal; in a log a line for each stage and for at most 40 of its steps."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self.out = console or rich.console.Console(highlight=False, soft_wrap=True)
        if not self.out.is_terminal:
            self.out.width = max(self.out.width, 120)  # the width of a log is not limited
        self._bars = Progress(
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[text]}"),
            console=self.out,
        )
        self._task: TaskID | None = None
        self._stage = ""
        self._done = 0

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the bars during a ``with`` block."""
        if not self.out.is_terminal:
            yield
            return
        with Live(self._bars, console=self.out, refresh_per_second=5):
            yield

    def note(self, text: str) -> None:
        """Print a line, secrets masked."""
        self.out.print(masked(text), markup=False)

    def stage(self, name: str, total: int | None) -> None:
        """Start a stage; the same stage again sets its total alone."""
        if name == self._stage and self._task is not None:
            self._bars.update(self._task, total=total)
            return
        if self._task is not None:
            task = self._bars.tasks[-1]
            self._bars.update(self._task, completed=task.total or 1, total=task.total or 1)
        self._stage, self._done = name, 0
        self._task = self._bars.add_task(name, total=total, text="")
        if not self.out.is_terminal:
            self.out.print(f"{name} …", markup=False)

    def advance(self, done: int, text: str = "") -> None:
        """Set the number of steps that the stage has done; a log gets a line where there is a text."""
        if self._task is None:
            return
        self._bars.update(self._task, completed=done, text=text)
        total = int(self._bars.tasks[-1].total or 0)
        due = total and done != self._done and done % max(1, total // _LINES_OF_A_STAGE) == 0
        if due and text and not self.out.is_terminal:
            self._done = done
            self.out.print(f"  {done}/{total}: {text}", markup=False)

    def search_state(self, state: SearchState) -> None:
        """Show the number of trials in each state, and the front so far, in the stage of the search."""
        done = state.complete + state.stopped + state.failed
        best = max((trial.val_accuracy for trial in state.front), default=math.nan)
        text = (
            f"{state.running} running, {state.stopped - state.not_trained} stopped early, "
            f"{state.complete} done"
            + (f", {state.not_trained} too slow to train" if state.not_trained else "")
            + (f", {state.failed} failed" if state.failed else "")
            + f"; front {len(state.front)}, hypervolume {state.hypervolume:.3f}"
            + (f", best {best:.1%}" if state.front else "")
        )
        self.advance(done, text)

    def front(self, record: SearchRecord, folder: Path, seconds: float | None = None) -> None:
        """Print the front as a table, counts of trials, and the next commands for the run in ``folder``."""
        self.out.print(_front_table(record, narrow=self.out.width < _NARROW))
        self.out.print()
        states = [trial.state for trial in record.trials]
        spent = epochs_spent(record.trials)
        slow = [trial for trial in record.trials if trial.not_trained]
        self.note(
            f"{len(states)} trials ({states.count('complete')} complete, "
            f"{states.count('stopped') - len(slow)} stopped early, "
            + (f"{len(slow)} too slow to train, " if slow else "")
            + f"{states.count('failed')} failed), {spent} epochs, hypervolume {record.hypervolume:.3f}"
            + (f", {seconds:.0f} s" if seconds is not None else "")
        )
        if slow:
            self.note(f"  {slow[0].trial_id}, for instance: {slow[0].reason}")
        for line in [*references(record), *failures(record, folder)]:
            self.note(f"  {line}")
        for label, line in zip(("next:", *[""] * 9), next_steps(record, folder), strict=False):
            self.note(f"  {label:<5} {line}")


def references(record: SearchRecord) -> list[str]:
    """Return lines on the big model in smaller formats, and which students it beats in cost and accuracy."""
    lines = []
    for one in record.big_model.references[1:]:
        beaten = [
            member.trial_id
            for member in record.front
            if member.cost >= one.cost and member.val_accuracy <= one.val_accuracy
        ]
        lines.append(
            f"the big model in {one.format}, without training: {human_bytes(one.bytes)} "
            + f"(ratio {ratio_text(one.ratio)}), "
            + ("" if one.latency is None else f"{milliseconds(one.latency)}, ")
            + f"validation {percent(one.val_accuracy)}, test {percent(one.test_accuracy)}"
            + (f"; it is better than {', '.join(beaten)}" if beaten else "")
        )
    return lines


def _front_table(record: SearchRecord, *, narrow: bool) -> Table:
    """Return the front with whole ids and figures; a long name of a student is wrapped."""
    big = record.big_model
    table = Table(
        title=f"front of {record.name}: {big.name}, {human_bytes(big.bytes)}, "
        + ("" if big.latency is None else f"{milliseconds(big.latency)}, ")
        + f"test {metric_text(record.metric)} {percent(big.test_accuracy)}",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),  # and the box's divider: two spaces, so that 80 columns suffice
        pad_edge=False,
    )
    columns = [column for column in _COLUMNS[record.cost] if not (narrow and column in _OPTIONAL)]
    for column in columns:
        left, wraps = column in ("trial", "student", "method"), column == "student"
        table.add_column(column, justify="left" if left else "right", no_wrap=not wraps, overflow="fold")
    for member in record.front:
        cells = _cells(member, record.method_of(member))
        # As Text, because rich reads words in square brackets of a str as markup.
        table.add_row(*(Text(cells[column]) for column in columns))
    return table


def _cells(member: FrontMember, method: str) -> dict[str, str]:
    return {
        "trial": member.trial_id,
        "student": member.student,
        "method": method,
        "ms": f"{member.cost:.3g}",
        "size": human_bytes(member.bytes),
        "ratio": ratio_text(member.ratio),
        "val": percent(member.val_accuracy),
        "test": percent(member.test_accuracy),
        "kept": percent(member.retention, 1),
    }


def failures(record: SearchRecord, folder: Path) -> list[str]:
    """Return why trials failed, one line a kind of reason, and where the full text is; [] where none did."""
    failed = [trial for trial in record.trials if trial.state == "failed"]
    if not failed:
        return []
    store = ", and each trial's tag `reason` in MLflow" if record.tracking_uri else ""
    return [*reason_lines(failed), f"all reasons: {folder / RECORD_FILE}{store}"]


def next_steps(record: SearchRecord, folder: Path) -> list[str]:
    """Return commands for a finished search, one a line: see its report, and pick a student."""
    uri = record.tracking_uri
    page = run_url(uri, record.experiment_id, record.parent_run_id)
    if page or uri.startswith(("http://", "https://")):
        see = [f"see {page or uri}"]
    else:
        see = [f"mlflow ui --backend-store-uri {shlex.quote(uri)}"] if uri else []
    pick = [f"python -m tkd_search pick {shlex.quote(str(folder))} --max-ratio 0.1"] if record.front else []
    return [*see, f"see {folder / 'pareto.html'}", *pick]
