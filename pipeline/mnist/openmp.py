"""How long PyTorch's threads spin while they wait for one another. To be imported before torch.

By default GNU's OpenMP spins for milliseconds. That is lost when another process has the core of
the thread that is waited for: two trainings at once took three times as long as one after the
other. A thread that sleeps at once leaves the core, but waking it costs time when it is alone.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "700")  # turns, about two microseconds
