"""S3 that is asked again for some minutes when it does not answer; pyarrow's own gives up after six seconds."""

from __future__ import annotations

from typing import Any

from pyarrow import fs as arrow_fs

ATTEMPTS = 14
"""With pauses of 1, 2, 4, ... 20 seconds at most, and half as long on average: about two minutes."""


class Patient(arrow_fs.S3FileSystem):
    """S3 for what a run writes over hours, where a short absence should cost nobody a trial."""

    def __reduce__(self) -> tuple:
        """pyarrow's own pickle forgets how often to ask again."""
        return patient, (_options(self),)


def patient(options: dict[str, Any]) -> Patient:
    """S3 with pyarrow's options."""
    return Patient(**options, retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS))


def waiting(fs: arrow_fs.FileSystem) -> arrow_fs.FileSystem:
    """`fs`, patient where it is S3. What lies elsewhere waits by itself, as Google's, or does not go away."""
    return patient(_options(fs)) if isinstance(fs, arrow_fs.S3FileSystem) else fs


def _options(fs: arrow_fs.S3FileSystem) -> dict[str, Any]:
    return arrow_fs.S3FileSystem.__reduce__(fs)[1][0]
