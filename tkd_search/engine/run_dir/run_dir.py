"""Paths of a run: on the driver's disk, and on a storage that all nodes reach."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tkd_search import storage
from tkd_search.config.experiment_file import Config
from tkd_search.engine.progress import Progress
from tkd_search.engine.run_dir.owned_progress import OwnedProgress
from tkd_search.engine.run_dir.replicate import Replicator, check_owner, restore


@dataclass(frozen=True)
class RunDir:
    """Paths of a run.

    Attributes:
        folder: ``<output>/<name>`` on the driver's disk: study, logs and results of this run.
        cache: place of data, F and bank, which searches over the same data share.
        trials: place of the trials' checkpoints and weights.
        home: place on ``storage`` to which ``folder`` is copied; None without a storage.
    """

    folder: Path
    cache: str
    trials: str
    home: str | None = None

    @classmethod
    def of(cls, config: Config) -> "RunDir":
        """Return the paths that a configuration names."""
        output = Path(config.tree["output"]).absolute()
        folder = output / config.name
        if config.storage is None:
            return cls(folder, str(output / ".cache"), str(folder / "trials"))
        root = storage.storage_uri(config.storage)
        home = storage.below(root, "runs", config.name)
        return cls(folder, storage.below(root, "cache"), storage.below(home, "trials"), home)

    @property
    def copied_to(self) -> str | None:
        """``home``, unless that is ``folder`` itself."""
        if self.home is None:
            return None
        here = storage.local_path(self.home)
        return None if here is not None and here.resolve() == self.folder.resolve() else self.home

    def recover(self) -> None:
        """Fetch a run of this name that another machine has begun from the storage.

        Raises:
            UserError: the storage cannot be read and written.
        """
        if (home := self.copied_to) is not None:
            storage.check_storage(home)
            restore(self.folder, home)

    def refuse_stale(self) -> None:
        """Refuse to go on from this machine's folder where another machine has gone on from the copy.

        Raises:
            UserError: the copy on the storage is another machine's.
        """
        if (home := self.copied_to) is not None and self.folder.exists():
            check_owner(self.folder, home)

    @contextmanager
    def replicated(self, progress: Progress) -> Iterator[Progress]:
        """Copy ``folder`` to the storage at intervals and at the end of a ``with`` block.

        Yields:
            ``progress``; each call raises once another driver owns the copy, so that the search ends.

        Raises:
            UserError: another driver owns the copy, or the storage cannot be written.
        """
        if (home := self.copied_to) is None:
            yield progress
        else:
            with Replicator(self.folder, home) as replicator:
                yield OwnedProgress(progress, replicator.check)
