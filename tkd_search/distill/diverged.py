"""The error that a diverged training raises, so that callers can tell it from a crash."""


class Diverged(RuntimeError):  # noqa: N818  (the outcome of a trial, not a programming error)
    """The loss of a student is not finite; the trial failed because of its configuration.

    Args:
        epoch: number of complete epochs before the failure.
        terms: mean of every term of the objective over the batches of the epoch so far.
    """

    def __init__(self, epoch: int, terms: dict[str, float]) -> None:
        self.epoch, self.terms = epoch, terms
        listed = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        remedy = "the learning rate" + (" or method.r" if "gradient" in terms else "")
        super().__init__(f"the loss is not finite in epoch {epoch + 1} ({listed}); lower {remedy}")

    def __reduce__(self) -> tuple[type, tuple[int, dict[str, float]]]:
        """Return what pickle needs to rebuild the error in another process."""
        return type(self), (self.epoch, self.terms)
