"""Who holds which worker group, and what travels between trial and group: pure state, no Ray, no clock.

A *slot* is a warm worker group. A *holder* (a trial's Trainable, or the driver for a stage) takes a
lease on a slot, posts one job at a time and pulls its results; the group takes the job and pushes
results. Every call names the lease or the job it speaks for, so that whoever was replaced is told so
instead of disturbing the successor (fencing). :mod:`~tkd_search.engine.workers.queue_actor` wraps
this in an actor.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PushAnswer = Literal["accepted", "full", "superseded"]

DEATHS = 3
"""A job during which its group died so often in a row, without getting any further, is given up."""

_ENDINGS = ("done", "failed", "broken")

_KILLED = (
    f"its worker process died {DEATHS} times in a row (out of memory, or a crash in a library: its .err file "
    "in the folder that Ray names tells); a smaller batch or model, or fewer trials at once "
    "(resources.max_concurrent), need less memory"
)


class LeaseLostError(Exception):
    """The caller no longer holds the slot: it expired, was retired, or the broker was restarted."""


@dataclass(frozen=True)
class Lease:
    """The right to post to a slot until released or not renewed in time."""

    slot: str
    token: int


@dataclass
class _Slot:
    info: dict[str, Any] = field(default_factory=dict)
    attached: int = 0
    up: bool = False
    retiring: bool = False
    vacating: bool = False
    holder: str | None = None
    token: int = 0
    last_beat: float = 0.0
    job: dict[str, Any] | None = None
    job_id: int = 0
    lives: int = 0
    told: int = 0
    furthest: int = 0
    results: deque[dict[str, Any]] = field(default_factory=deque)


class JobQueue:
    """All slots of one search.

    Args:
        time_to_live: seconds without a heartbeat after which a lease is free again.
        ahead: results a group may push before the holder has pulled them (back-pressure).
        generation: differs between incarnations of the broker, so that tokens and job numbers of a lost
            one are never taken for ours.
    """

    def __init__(self, *, time_to_live: float = 10.0, ahead: int = 2, generation: int = 0) -> None:
        self._slots: dict[str, _Slot] = {}
        self._time_to_live, self._ahead = time_to_live, ahead
        self._counter = generation << 32

    # the group's side -------------------------------------------------------------------------------

    def attach(self, slot: str, info: dict[str, Any]) -> None:
        """A group came up (or came up again: its unfinished job will be handed to it once more)."""
        state = self._slots.setdefault(slot, _Slot())
        state.info, state.attached, state.up = info, state.attached + 1, True

    def take(self, slot: str, after: int) -> tuple[int, dict[str, Any]] | None:
        """The job posted since job number ``after``, with its number; None where there is none.

        An unknown slot (the broker was restarted) is attached on the way. A retiring slot that nobody
        holds is told to exit. A group asks again for a job that it had when it died and came up again; one
        that keeps killing its group is given up, and its holder told so.
        """
        if slot not in self._slots:
            self.attach(slot, {})
        state = self._slots[slot]
        if state.job is not None and state.job_id != after:
            if state.lives < DEATHS:
                state.lives, state.told = state.lives + 1, 0
                return state.job_id, state.job
            self._give_up(state)
        if state.retiring and state.holder is None:
            return self._next(), {"kind": "exit"}
        return None

    def push(self, slot: str, job_id: int, result: dict[str, Any]) -> PushAnswer:
        """Offer one result; ``full`` asks to wait, ``superseded`` to drop the job at once.

        ``{"kind": "alive"}`` never waits: it says nothing that the results before it do not say too.
        """
        if self.superseded(slot, job_id):
            return "superseded"
        state = self._slots[slot]
        needless = result.get("kind") == "alive" and bool(state.results)
        if len(state.results) >= self._ahead and not needless:
            return "full"
        if not needless:
            state.results.append(result)
        self._note_progress(state, result)
        if result.get("kind") in _ENDINGS:
            state.job = None  # a group that restarts now must not do it again
        if state.vacating and result.get("kind") == "epoch" and not result.get("last"):
            self._interrupt(state)
        return "accepted"

    def superseded(self, slot: str, job_id: int) -> bool:
        """Whether the slot's holder has moved on from this job."""
        state = self._slots.get(slot)
        return state is None or state.job is None or state.job_id != job_id

    # the holder's side ------------------------------------------------------------------------------

    def lease(self, holder: str, now: float) -> Lease | None:
        """The first free slot, in order of attachment; None where all are taken."""
        self.expire(now)
        for name, state in self._slots.items():
            if state.up and state.holder is None and not state.retiring:
                state.holder, state.token, state.last_beat = holder, self._next(), now
                return Lease(name, state.token)
        return None

    def beat(self, lease: Lease, now: float) -> bool:
        """Renew a lease; False where it is lost."""
        state = self._held(lease)
        if state is not None:
            state.last_beat = now
        return state is not None

    def release(self, lease: Lease) -> None:
        """Give the slot back; its job is superseded. A lost lease is given back already."""
        state = self._held(lease)
        if state is not None:
            self._free(state)

    def expire(self, now: float) -> list[str]:
        """Free the slots whose holders stopped beating; their names."""
        late = [n for n, s in self._slots.items() if s.holder and now - s.last_beat > self._time_to_live]
        for name in late:
            self._free(self._slots[name])
        return late

    def post(self, lease: Lease, job: dict[str, Any]) -> int:
        """Put a job before the group, superseding the one there; its number.

        Raises:
            LeaseLostError: the caller no longer holds the slot.
        """
        state = self._held(lease)
        if state is None:
            raise LeaseLostError(lease.slot)
        state.job, state.job_id = job, self._next()
        state.lives = state.told = state.furthest = 0
        state.results.clear()
        if state.vacating or not state.up:
            self._interrupt(state)
        return state.job_id

    def pull(self, lease: Lease, job_id: int) -> dict[str, Any] | None:
        """The next result of a job, or None where there is none yet.

        Raises:
            LeaseLostError: the caller no longer holds the slot, or posted another job since.
        """
        state = self._held(lease)
        if state is None or state.job_id != job_id:
            raise LeaseLostError(lease.slot)
        return state.results.popleft() if state.results else None

    # the pool's side --------------------------------------------------------------------------------

    def retire(self, slot: str, *, evict: bool = False) -> None:
        """Ask a slot to end once nobody holds it; ``evict`` takes it from its holder at once."""
        if slot in self._slots:
            self._slots[slot].retiring = True
            if evict:
                self._free(self._slots[slot])

    def vacate(self, slot: str, *, at_once: bool = False) -> None:
        """A slot's machine is about to go: its trial makes way after the epoch at hand, or at once.

        The holder finds ``{"kind": "interrupted"}`` among the results and goes on elsewhere; the slot ends.
        """
        state = self._slots.get(slot)
        if state is not None:
            state.retiring = state.vacating = True
            if at_once:
                self._interrupt(state)

    def lost(self, slot: str) -> None:
        """A slot's machine has gone: its holder is interrupted, nobody gets it before it attaches again."""
        state = self._slots.get(slot)
        if state is not None and state.up:
            state.up = False
            self._interrupt(state)

    def forget(self, slot: str) -> None:
        """A group is gone for good; its holder's lease is lost."""
        self._slots.pop(slot, None)

    def overview(self) -> dict[str, dict[str, Any]]:
        """Per slot: info, how often it attached, whether it is up, holder, whether it retires or works."""
        return {
            name: {
                "info": s.info,
                "attached": s.attached,
                "up": s.up,
                "holder": s.holder,
                "retiring": s.retiring,
                "busy": s.job is not None,
            }
            for name, s in self._slots.items()
        }

    def _held(self, lease: Lease) -> _Slot | None:
        state = self._slots.get(lease.slot)
        return state if state is not None and state.holder and state.token == lease.token else None

    @staticmethod
    def _note_progress(state: _Slot, result: Mapping[str, Any]) -> None:
        """Deaths count anew once a job is further than ever; a restarted one first tells its past again."""
        state.told += 1
        reached = result.get("epoch", result.get("done", state.told))
        if reached > state.furthest:
            state.furthest, state.lives = reached, 1

    @staticmethod
    def _give_up(state: _Slot) -> None:
        """Supersede a job that kills its group, and tell its holder, after the results that are there."""
        state.job = None
        state.results.append({"kind": "failed", "reason": _KILLED, "trace": ""})

    @staticmethod
    def _interrupt(state: _Slot) -> None:
        """Supersede the job and tell its holder, after the results that are there already."""
        if state.job is not None:
            state.job = None
            state.results.append({"kind": "interrupted"})

    @staticmethod
    def _free(state: _Slot) -> None:
        state.holder, state.job = None, None
        state.results.clear()

    def _next(self) -> int:
        self._counter += 1
        return self._counter
