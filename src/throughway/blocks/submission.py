"""Submits the jobs of blocks, and makes an outcome of whatever goes wrong at it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from throughway.blocks.state import Block
from throughway.providers.interface import JobId, JobSpec, Provider, SubmitFailure, job_name

logger = logging.getLogger("throughway.blocks")

Outcome = JobId | SubmitFailure


class Submitter:
    """Turns blocks into jobs of one run.

    Args:
        provider: takes them.
        run: the run's id, which their names hold.
        folder: takes their scripts and output.
        command_for: gives the command of a manager for a block's id.
        environment: is added to that of the jobs.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        run: str,
        folder: str,
        command_for: Callable[[str], Sequence[str]],
        environment: Mapping[str, str],
    ) -> None:
        self._provider = provider
        self._run = run
        self.folder = folder
        self._command_for = command_for
        self._environment = dict(environment)

    def submit(self, blocks: Sequence[Block], exclude: Sequence[str]) -> list[Outcome]:
        """Submit them all in one call, away from the hosts ``exclude``: for each the job's id, or why there is none."""
        provider = self._provider
        try:
            return self._checked(provider.submit([self._spec(block, exclude) for block in blocks]), blocks)
        except Exception as error:
            logger.warning("no block could be submitted to the %s provider", provider.label, exc_info=True)
            text = str(error) or repr(error)
            failure = SubmitFailure(f"the {provider.label} provider could not submit it: {text}")
            return [failure for _ in blocks]

    def _spec(self, block: Block, exclude: Sequence[str]) -> JobSpec:
        return JobSpec(
            name=job_name(self._run, block.id),
            command=list(self._command_for(block.id)),
            nodes=block.nodes,
            folder=self.folder,
            environment=self._environment,
            exclude=exclude,
        )

    def _checked(self, outcomes: list[Outcome], blocks: Sequence[Block]) -> list[Outcome]:
        if len(outcomes) != len(blocks):
            # It can't be told which job is whose: none is kept.
            started = [outcome for outcome in outcomes if not isinstance(outcome, SubmitFailure)]
            if started:
                self._provider.cancel(started, force=True)
            raise RuntimeError(f"it answered {len(outcomes)} times for {len(blocks)} jobs")
        return outcomes
