"""What becomes of a Ray of our own."""

from __future__ import annotations

import signal
import subprocess
import sys

SHUT_DOWN_BESIDE_A_CHILD_THAT_HANGS = """
import subprocess
from distsqz.orchestration import cluster

child = subprocess.Popen(["sleep", "60"])
cluster.EXIT_TIMEOUT_S = 0.1
cluster._shut_down(embedded={embedded})
child.terminate()  # comes too late for one that was killed before
print(child.wait())
"""


def test_what_outlives_our_ray_is_ended_and_what_is_beside_a_joined_one_is_not() -> None:
    for embedded, status in ((True, -signal.SIGKILL), (False, -signal.SIGTERM)):
        done = subprocess.run(
            [sys.executable, "-c", SHUT_DOWN_BESIDE_A_CHILD_THAT_HANGS.format(embedded=embedded)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.strip() == str(int(status))
