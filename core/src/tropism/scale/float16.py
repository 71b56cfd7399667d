"""Loss scaling for float16, whose smallest numbers are larger than many gradients (arXiv 1710.03740, section 3.2)."""

from __future__ import annotations

from tropism.errors import DivergedError

LEAST = 1.0  # below it nothing is scaled up any more: what is not finite there is no overflow


class Scaler:
    """The factor of the loss: halved after an update whose gradients are not finite, doubled after ``interval`` in a row that are.

    Such an update is skipped and counted; it is no fault, and the first few updates of a run are expected to be. The numbers are those of
    ``torch.amp.GradScaler``. The decision is taken from the gradient norm, which all processes have and which is looked at anyway.
    """

    def __init__(self, scale: float = 2.0**16, interval: int = 2000) -> None:
        self.scale, self.interval = scale, interval
        self.good = 0  # updates in a row since the scale has changed
        self.skipped = 0  # updates in all

    def seen(self, norm: float) -> bool:
        """Whether the update with this gradient norm is to be made. Raises DivergedError where no scale has helped."""
        if norm < float("inf"):
            self.good += 1
            if self.good == self.interval:
                self.scale, self.good = 2 * self.scale, 0
            return True
        self.scale, self.good, self.skipped = self.scale / 2, 0, self.skipped + 1
        if self.scale < LEAST:
            raise DivergedError(
                f"the gradient norm is {norm} at a loss scale of {2 * self.scale:g}, so this is no overflow of a gradient in float16; "
                "the network itself overflows or has diverged: try train.precision=bf16 or fp32, or a lower train.lr"
            )
        return False

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale, "good": self.good, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.scale, self.good, self.skipped = state["scale"], int(state["good"]), int(state["skipped"])
