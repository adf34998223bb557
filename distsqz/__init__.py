"""distsqz measures what a smaller network saves in distributed training."""

import os

# A thread that still asks Ray for something while Ray is being stopped would start another one.
# Read when Ray is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
