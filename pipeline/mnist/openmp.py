"""How long PyTorch's threads spin while they wait for one another. To be imported before torch.

By default GNU's OpenMP spins for 300,000 turns. That is lost when another process has the core of
the thread that is waited for: two trainings at once took 2.8 times as long as one after the other.
A thread that sleeps at once leaves the core, but it must be woken even where nobody else wants it.
With 700 turns, two at once took 1.14 times as long, and one alone 1.04 times (an AMD EPYC).
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "700")
