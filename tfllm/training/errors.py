"""Errors of a run that its user can mend."""


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why, what is kept and what to do."""

    exit_status = 1


class CheckpointError(TrainingError):
    """A checkpoint that cannot be written or read."""


class WorkerLostError(TrainingError):
    """Another worker has gone; the same command, at every worker, goes on from the last checkpoint."""

    exit_status = 75  # EX_TEMPFAIL of sysexits.h: try again
