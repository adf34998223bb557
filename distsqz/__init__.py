"""distsqz measures what a smaller network saves in distributed training."""

import os

# A thread that still asks Ray for something while Ray is being stopped would start another one.
# Read when Ray is imported.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

# Ray cannot be imported where a user has no home at all. Docker gives such users this one.
if os.path.expanduser("~") == "~":  # noqa: PTH111 - Path's own raises
    os.environ["HOME"] = "/"
