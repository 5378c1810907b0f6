"""The most memory that a step took: of its process, and of the GPU that it ran on."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

_SELF = Path("/proc/self")


class PeakMemory:
    """Measures what runs inside it; `bytes` then has `host` and `gpu`, each where the system says it.

    `host` is the greatest resident size of this process (Linux's VmHWM, set back before), which holds what the process
    kept from earlier steps too, such as a backbone. `gpu` is what torch's allocator held at most.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.bytes: dict[str, int] = {}
        self._resets = False

    def __enter__(self) -> PeakMemory:
        """Begin anew from what is held now."""
        try:
            (_SELF / "clear_refs").write_text("5")
            self._resets = True
        except OSError:
            # No Linux, or not allowed: the greatest size would be that of another step.
            self._resets = False
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Read what it came to."""
        if self._resets and (size := _greatest_resident()) is not None:
            self.bytes["host"] = size
        if self.device.startswith("cuda"):
            import torch

            self.bytes["gpu"] = int(torch.cuda.max_memory_allocated(self.device))


def _greatest_resident() -> int | None:
    lines = (_SELF / "status").read_text(encoding="utf-8").splitlines()
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None
