"""What graders may use beside their definition: judges, endpoints, models, worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from pydantic import ValidationInfo

from jobs.graders.calling import Caller
from jobs.graders.judges import Judge, LocalJudge, OneAtATime, RemoteEmbedder, RemoteJudge
from jobs.graders.offload.pool import Offload
from jobs.graders.ports import Answers, Budget, Models, NoAnswers, NoBudget
from jobs.graders.settings import GraderSettings
from jobs.outbound import Outbound, host_of

Result = TypeVar("Result")

ENDPOINT_CONCURRENCY = 32
# Components of one sample that wait for others, over all samples that are being graded.
_MAX_WAITING = 256


@dataclass(frozen=True)
class Means:
    """Bound to a grader as it is parsed; a type that lacks what it needs is refused then."""

    judges: Mapping[str, Judge] = field(default_factory=dict)
    embedder: RemoteEmbedder | None = None
    caller: Caller = field(default_factory=lambda: Caller(Outbound()))
    endpoint_keys: tuple[bytes, ...] = ()
    """The operator's, of which each project's own are derived."""
    models: Models | None = None
    answers: Answers = field(default_factory=NoAnswers)
    budget: Budget = field(default_factory=NoBudget)
    offload: Offload = field(default_factory=Offload)
    asking: OneAtATime = field(default_factory=OneAtATime)
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_MAX_WAITING, thread_name_prefix="component")
    )

    @classmethod
    def of(
        cls,
        settings: GraderSettings,
        *,
        models: Models | None = None,
        max_retries: int = 20,
        max_seconds: float = 600.0,
    ) -> Means:
        """What an operator's settings offer, and the models that this process can reach.

        `max_retries` and `max_seconds` bound each call, where a person waits for the answer.
        """

        def caller(allowed: Iterable[str], concurrency: int) -> Caller:
            return Caller(
                Outbound(allowed=allowed, max_connections=concurrency),
                max_retries=max_retries,
                max_seconds=max_seconds,
            )

        judges = {
            name: RemoteJudge(name, at, caller([host_of(at.base_url)], at.concurrency))
            for name, at in settings.judges.items()
        }
        embedder = None
        if (at := settings.embeddings) is not None:
            embedder = RemoteEmbedder(at, caller([host_of(at.base_url)], at.concurrency))
        return cls(
            judges=judges,
            embedder=embedder,
            caller=caller(settings.outbound_allow, ENDPOINT_CONCURRENCY),
            endpoint_keys=settings.endpoint_keys(),
            models=models,
        )

    def kept_in(self, answers: Answers, budget: Budget) -> Means:
        """The same, with answers kept and requests counted there."""
        return replace(self, answers=answers, budget=budget)

    def judge(self, name: str) -> Judge | None:
        """The judge of that name: the operator's, else a model that this machine runs."""
        if name in self.judges:
            return self.judges[name]
        if self.models is not None and self.models.serves(name):
            return LocalJudge(name, self.models)
        return None

    def embed(self) -> Callable[[Sequence[str]], list[list[float]]] | None:
        """What turns texts into vectors, where there is anything that does."""
        if self.embedder is not None:
            embedder = self.embedder
            return lambda texts: embedder.embed(list(texts))
        if self.models is not None and self.models.can_embed():
            return self.models.embed
        return None

    def start(self, work: Callable[[], Result]) -> Future[Result]:
        """Run what waits for others beside what the caller does; it may not start more."""
        return self._threads.submit(work)

    def __reduce__(self) -> tuple[Callable[[], Means], tuple[()]]:
        """Means belong to one process: a grader that travels arrives with the bare ones."""
        return (_bare, ())

    def close(self) -> None:
        """End processes, connections and waits; grades under way fail at once."""
        for judge in self.judges.values():
            judge.close()
        if self.embedder is not None:
            self.embedder.close()
        self.caller.close()
        self.offload.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


def _bare() -> Means:
    return BARE


# Rules and formulas, worker processes, and no judge, endpoint on a private host, or model.
BARE = Means()


def means_of(info: ValidationInfo) -> Means:
    """What the grader that is being parsed may use."""
    return info.context if isinstance(info.context, Means) else BARE
