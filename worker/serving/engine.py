"""Continuous batching: one thread that gives every open answer a token, then looks for new ones.

A request joins the batch of its base between two tokens, whatever the others have still to say,
and its rows leave it as they end. Where the cache has no room for all, the newest row waits and
its tokens are read again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from jobs.errors import HonedError, Unavailable
from worker.grpo.compaction import without
from worker.grpo.hf_sampler import MAX_CACHE_BYTES
from worker.serving.batch import GROWTH, LiveBatch
from worker.serving.generation import Choice, Generation
from worker.serving.hosted import BASE, HostedModel
from worker.serving.sampling import sample

log = logging.getLogger(__name__)

MAX_ROWS = 128
MAX_WAITING = 256
PREFILL_TOKENS = 4096  # Read between two tokens of the others; one prompt alone may be longer.


ENDING = Unavailable("The process ends; ask again when it is back.")
BROKEN = HonedError(
    "The serving process failed on this request; the cause is in its log.", code="internal_error"
)


@dataclass(eq=False)
class _Party:
    """Choices that enter a batch together: they stand at the same place of one prompt."""

    choices: list[Choice]

    @property
    def generation(self) -> Generation:
        return self.choices[0].generation

    @property
    def ids(self) -> list[int]:
        return self.generation.prompt_ids + self.choices[0].ids


@dataclass(eq=False)
class _Running:
    """A batch, and whose rows they are."""

    batch: LiveBatch
    choices: list[Choice]


@dataclass(eq=False)
class _Work:
    """What there is to do for one base."""

    model: HostedModel
    waiting: deque[_Party] = field(default_factory=deque)
    running: list[_Running] = field(default_factory=list)

    @property
    def choices(self) -> list[Choice]:
        return [choice for one in self.running for choice in one.choices]


class Engine:
    """The thread and its work. All methods may be called by any other thread."""

    def __init__(self, *, max_cache_bytes: int | None = None) -> None:
        """`max_cache_bytes` bounds the keys and values of each base's rows."""
        self._max_cache_bytes = max_cache_bytes
        self._changed = threading.Condition()
        self._arrived: deque[Generation] = deque()
        self._works: dict[HostedModel, _Work] = {}
        self._num_waiting = 0
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, generation: Generation) -> None:
        """Have it answered through its `emit`. Raises Unavailable when too many wait already."""
        with self._changed:
            if self._is_closed:
                raise ENDING
            if len(self._arrived) + self._num_waiting >= MAX_WAITING:
                raise Unavailable(
                    f"{MAX_WAITING} requests wait for an answer already; try again in a while.",
                    code="overloaded",
                )
            self._arrived.append(generation)
            self._changed.notify()

    def cancel(self, generation: Generation) -> None:
        """Nobody wants it any more: no token of it is computed after the one that is now."""
        generation.is_cancelled = True

    def close(self) -> None:
        """End the thread after the token it is at."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._collect():
                for work in list(self._works.values()):
                    self._turn(work)
                    if not work.waiting and not work.running:
                        del self._works[work.model]
                self._num_waiting = sum(len(work.waiting) for work in self._works.values())
        self._give_up()

    def _give_up(self) -> None:
        """Tell those who still wait that nothing more comes."""
        parties = [party for work in self._works.values() for party in work.waiting]
        choices = [choice for work in self._works.values() for choice in work.choices]
        waiting = {party.generation for party in parties} | {one.generation for one in choices}
        for generation in waiting | set(self._arrived):
            _fail(generation, ENDING)

    def _collect(self) -> bool:
        """Take in what has arrived, waiting for it when there is nothing else. False at the end."""
        with self._changed:
            while not self._is_closed and not self._arrived and not self._works:
                self._changed.wait()
            while self._arrived:
                generation = self._arrived.popleft()
                work = self._works.setdefault(generation.model, _Work(generation.model))
                choices = [Choice(generation, index) for index in range(generation.sampling.n)]
                work.waiting.append(_Party(choices))
            return not self._is_closed

    def _turn(self, work: _Work) -> None:
        """New rows in, then one token for every row of a base."""
        try:
            self._admit(work)
            for running in list(work.running):
                self._step(work, running)
        except Exception as error:
            failure = _failure(error)
            concerned = {choice.generation for choice in work.choices}
            log.exception("answers of a base broke off: %s", _named(concerned))
            work.running.clear()
            for generation in concerned:
                _fail(generation, failure)

    def _admit(self, work: _Work) -> None:
        parties: list[_Party] = []
        while work.waiting:
            party = work.waiting[0]
            if party.generation.is_cancelled:
                work.waiting.popleft()
                continue
            width = max(len(one.ids) for one in (*parties, party))
            if not self._has_room(work, [*parties, party]):
                break
            if parties and (len(parties) + 1) * width > PREFILL_TOKENS:
                break
            work.waiting.popleft()
            if self._adapt(work, party.generation):
                parties.append(party)
            if parties and not work.model.is_joinable:
                break
        if parties:
            self._start(work, parties)

    def _start(self, work: _Work, parties: Sequence[_Party]) -> None:
        try:
            batch = LiveBatch(
                work.model,
                [party.ids for party in parties],
                adapters=[party.generation.adapter_name for party in parties],
                copies=[len(party.choices) for party in parties],
            )
        except Exception as error:
            concerned = _named({party.generation for party in parties})
            log.exception("prompts could not be read: %s", concerned)
            for party in parties:
                _fail(party.generation, _failure(error))
            return
        choices = [choice for party in parties for choice in party.choices]
        if work.running and work.model.is_joinable:
            work.running[0].batch.join(batch)
            work.running[0].choices += choices
        else:
            work.running.append(_Running(batch, choices))

    def _adapt(self, work: _Work, generation: Generation) -> bool:
        """Whether the generation's adapter is ready; where it cannot be, the request has failed."""
        adapter = generation.adapter
        if adapter is None:
            return True
        in_use = {choice.generation.adapter_name for choice in work.choices}
        in_use |= {party.generation.adapter_name for party in work.waiting}
        try:
            work.model.adapt(adapter.name, adapter.folder, in_use=in_use - {BASE})
        except Exception as error:
            log.exception("adapter %s cannot be loaded: %s", adapter.name, generation.request_id)
            _fail(generation, HonedError(f"The adapter cannot be loaded: {error}"))
            return False
        return True

    def _has_room(self, work: _Work, parties: Sequence[_Party]) -> bool:
        """Whether the parties fit beside the rows there are; into an empty base anything does."""
        num_new = sum(len(party.choices) for party in parties)
        if not work.running and len(parties) == 1:
            return True
        num_rows = len(work.choices) + num_new
        columns = max(
            *(running.batch.length for running in work.running),
            *(len(party.ids) for party in parties),
            0,
        )
        return num_rows <= MAX_ROWS and self._fits(work, num_rows, columns + GROWTH)

    def _fits(self, work: _Work, num_rows: int, columns: int) -> bool:
        bound = self._max_cache_bytes or MAX_CACHE_BYTES[work.model.device.type]
        return num_rows * columns * work.model.bytes_per_token <= bound

    def _step(self, work: _Work, running: _Running) -> None:
        batch, choices = running.batch, running.choices
        asked = [choice.generation.sampling for choice in choices]
        ids, logprobs_BV = sample(
            batch.logits_BV, asked, [choice.random.random() for choice in choices]
        )
        ended = []
        for row, (choice, token) in enumerate(zip(choices, ids, strict=True)):
            is_over = choice.generation.is_cancelled or choice.accept(
                token, None if logprobs_BV is None else logprobs_BV[row]
            )
            ended.append(is_over)
        if not all(ended) and batch.length == batch.capacity:
            self._make_room(work, running, ended)
        if all(ended):
            work.running.remove(running)
            return
        if any(ended):
            order = without(ended)
            batch.keep(order)
            running.choices = [choices[row] for row in order]
            ids = [ids[row] for row in order]
        batch.advance(ids)

    def _make_room(self, work: _Work, running: _Running, ended: list[bool]) -> None:
        """Send the newest rows back to wait while the cache cannot grow with all of them."""
        batch, choices = running.batch, running.choices
        for row in range(len(choices) - 1, 0, -1):
            if self._fits(work, ended.count(False), batch.capacity + GROWTH):
                return
            if not ended[row] and ended.count(False) > 1:
                ended[row] = True
                work.waiting.appendleft(_Party([choices[row]]))


def _named(generations: set[Generation]) -> str:
    return ", ".join(sorted(generation.request_id for generation in generations))


def _fail(generation: Generation, error: HonedError) -> None:
    generation.is_cancelled = True
    generation.emit(error)


def _failure(error: Exception) -> HonedError:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return Unavailable(
            "The device ran out of memory for this answer; try again when less is asked at once.",
            code="out_of_memory",
        )
    return BROKEN
