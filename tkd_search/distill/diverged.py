"""Failures of a training that its caller must tell from a crash."""


class Diverged(RuntimeError):  # noqa: N818  (a trial's fate, not a programming error)
    """The loss of a student is no longer finite: the trial has failed, its configuration is to blame.

    Args:
        epoch: epochs that were complete when it happened.
        terms: mean of every term of the objective over the batches since the last check.
    """

    def __init__(self, epoch: int, terms: dict[str, float]) -> None:
        self.epoch, self.terms = epoch, terms
        told = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        super().__init__(
            f"the loss is not finite in epoch {epoch + 1} ({told}); lower training.lr or method.r"
        )

    def __reduce__(self) -> tuple[type, tuple[int, dict[str, float]]]:
        """Survive a trip between processes."""
        return type(self), (self.epoch, self.terms)
