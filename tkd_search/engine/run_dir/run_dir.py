"""Where a search keeps its things: on the driver's disk, and on a storage that all nodes reach."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tkd_search import storage
from tkd_search.config.experiment_file import Config
from tkd_search.engine.run_dir.replicate import Replicator, check_owner, restore


@dataclass(frozen=True)
class RunDir:
    """Where a search keeps its things.

    Attributes:
        folder: ``<output>/<name>`` on the driver's disk: study, logs and results of this run.
        cache: place of what searches over the same data share: data, F, bank.
        trials: place of the trials' checkpoints and weights.
        home: place on ``storage`` to which ``folder`` is copied; None without a storage.
    """

    folder: Path
    cache: str
    trials: str
    home: str | None = None

    @classmethod
    def of(cls, config: Config) -> "RunDir":
        """The places that a configuration names."""
        output = Path(config.tree["output"]).absolute()
        folder = output / config.name
        if config.tree["storage"] is None:
            return cls(folder, str(output / ".cache"), str(folder / "trials"))
        root = storage.storage_uri(config.tree["storage"])
        home = storage.below(root, "runs", config.name)
        return cls(folder, storage.below(root, "cache"), storage.below(home, "trials"), home)

    @property
    def copied_to(self) -> str | None:
        """``home``, unless that is ``folder`` itself."""
        return None if self.home is None or storage.local_path(self.home) == self.folder else self.home

    def recover(self) -> None:
        """Fetch a run of this name from the storage, where another machine has begun it.

        Raises:
            UserError: the storage cannot be read and written.
        """
        if (home := self.copied_to) is not None:
            storage.check_storage(home)
            restore(self.folder, home)

    def refuse_stale(self) -> None:
        """Refuse to go on from a folder of this machine, where another machine has gone on since.

        Raises:
            UserError: the copy on the storage is another machine's.
        """
        if (home := self.copied_to) is not None and self.folder.exists():
            check_owner(self.folder, home)

    def mirrored(self) -> AbstractContextManager[object]:
        """Keeps the copy of ``folder`` on the storage fresh for the length of a ``with`` block."""
        home = self.copied_to
        return nullcontext() if home is None else Replicator(self.folder, home)
