"""What this repository tells Prefect's server."""

from pathlib import Path


def announce_data(root: Path, batch: str, images: int) -> bool:
    """Tell Prefect's server that data were added in `root`; return whether it has heard."""
    return False
