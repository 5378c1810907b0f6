"""The count of a run as it goes: what was reused, made, failed and blocked, and telling the listeners so."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.execution import events
from orchestrator.execution.events import Listeners, Outcome
from orchestrator.execution.schedule import Ready
from orchestrator.steps.plan import Needs, Plan
from orchestrator.steps.step import Step
from orchestrator.storage.record import Record
from orchestrator.storage.store import Store


@dataclass
class RunCount:
    """How far a run is; each change is said to the listeners."""

    plan: Plan
    say: Listeners
    needs: Needs | None = None
    run: int = 0
    elsewhere: int = 0
    failures: list[events.StepFailed] = field(default_factory=list)
    blocked: set[str] = field(default_factory=set)
    outcome: Outcome | None = None

    @property
    def reused(self) -> int:
        """Steps that need not run, or that another run made."""
        return self.plan.distinct - len(self.needs.missing) + self.elsewhere if self.needs else 0

    def start(self) -> None:
        """Say what will run."""
        assert self.needs is not None
        plan = self.plan
        self.say(events.RunStarted(plan.requested, plan.distinct, self.reused, self.needs.missing))

    def finished(self, step: Step, record: Record, ready: Ready, elsewhere: bool = False) -> None:
        """`step` is in the store; `elsewhere`: by the work of another run."""
        self.run += not elsewhere
        self.elsewhere += elsewhere
        ready.finished(step)
        self.say(events.StepFinished(step, record, elsewhere))

    def failed(self, step: Step, error: str, store: Store, ready: Ready) -> list[Step]:
        """`step` failed; what needs it is blocked, and what this gives."""
        failure = events.StepFailed(step, error, str(store.log(step.digest)))
        self.failures.append(failure)
        self.say(failure)
        behind = ready.fail(step)
        for other in behind:
            if other.digest not in self.blocked:
                self.blocked.add(other.digest)
                self.say(events.StepBlocked(other, step))
        return behind

    def end(self, interrupted: bool = False) -> Outcome:
        """Say how it ended; once, even if an interrupt comes while the cluster is stopped."""
        if self.outcome is not None:
            return self.outcome
        self.outcome = Outcome(
            requested=self.plan.requested,
            distinct=self.plan.distinct,
            reused=self.reused,
            run=self.run,
            failed=len(self.failures),
            blocked=len(self.blocked),
            interrupted=interrupted,
            failures=tuple(self.failures),
            elsewhere=self.elsewhere,
        )
        self.say(events.RunFinished(self.outcome))
        return self.outcome
