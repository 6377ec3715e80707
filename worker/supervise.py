"""What a pool process does when the doorbell rings: validate, claim what fits, attempt it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace

from sqlalchemy.orm import Session

from jobs.db import connect, session_factory, transaction
from jobs.devices import Device, largest_device
from jobs.errors import SchemaMismatch
from jobs.log import about_job
from jobs.schema import check_schema
from jobs.settings import Settings
from jobs.store import attempts, fitting
from jobs.store.attempts import Claim
from jobs.store.turns import Place
from worker.attempt import Attempt
from worker.health import Health
from worker.slots import Slot, free_slot
from worker.validator import Validator

log = logging.getLogger(__name__)


class Supervisor:
    """What one pool process does when the doorbell rings."""

    def __init__(self, settings: Settings, *, is_stopping: Callable[[], bool]) -> None:
        self.settings = settings
        self.is_stopping = is_stopping
        self.worker = f"{settings.worker_name}:{os.getpid()}"
        self.engine = connect(settings.sqlalchemy_url)
        self.sessions = session_factory(self.engine)
        self.validator = Validator(
            settings, self.sessions, worker=self.worker, is_stopping=is_stopping
        )

    def drain(self) -> None:
        """Validate and run until nothing waits that this process can take."""
        try:
            if not self._fits():
                return
            self.validator.validate_all()
            with free_slot(self.settings.slots_dir) as slot:
                if slot is None:
                    # Busy with other jobs; what fits none of its devices should not wait to hear.
                    with transaction(self.sessions) as session:
                        self._decline(session, self._allowed(largest_device()))
                    return
                health = Health(self.settings, self.sessions, slot, self.is_stopping)
                while not self.is_stopping() and self._fits() and health.may_claim():
                    claimed = self._claim(slot)
                    if claimed is None:
                        return
                    with about_job(claimed.job_id, claimed.attempt, request=claimed.request_id):
                        attempt = Attempt(
                            self.settings,
                            self.sessions,
                            claimed,
                            slot,
                            is_stopping=self.is_stopping,
                        )
                        attempt.run()
                    self.validator.validate_all()
        finally:
            self.engine.dispose()

    def _fits(self) -> bool:
        """Whether this code may use the database, which may have been migrated under it."""
        try:
            check_schema(self.engine)
        except SchemaMismatch as fault:
            log.error("nothing is claimed: %s", fault)
            return False
        return True

    def _claim(self, slot: Slot) -> Claim | None:
        device = self._allowed(slot.device)
        with transaction(self.sessions) as session:
            claimed = attempts.claim(
                session,
                worker=self.worker,
                lease_seconds=self.settings.lease_seconds,
                device=device,
                place=Place(self.settings.worker_name, slot.index),
            )
            if claimed is None:
                self._decline(session, device)
            return claimed

    def _allowed(self, device: Device) -> Device:
        """The device with no more memory than the operator lets jobs use."""
        if self.settings.device_memory_gb is None:
            return device
        limit = int(self.settings.device_memory_gb * fitting.GB)
        return replace(device, memory_bytes=min(limit, device.memory_bytes or limit))

    def _decline(self, session: Session, device: Device) -> None:
        fitting.decline(session, worker=self.settings.worker_name, device=device)
