# %% [markdown]
# # Reading a run with pandas
#
# This file is a notebook in the percent format, which VS Code, PyCharm and Jupytext open as cells.
# `python examples/reading_a_run.py` runs it as a script, on the newest run in `runs/`. Make one first:
#
#     distsqz compare --image-size 64 --steps 10

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import distsqz

newest = max(Path("runs").glob("*/run.json")).parent  # a run's name begins with the time it started
run = distsqz.open_run(newest)
print(run.run_id, run.meta["status"])

# %% [markdown]
# ## What was measured
#
# A cell is one model under one strategy, with its options.

# %%
cells = pd.DataFrame(run.cells).set_index("cell")
print(cells[["model", "strategy", "world_size", "params", "payload_bytes"]])

# %% [markdown]
# ## Bytes
#
# `steps` has a row for each rank and step. Warm-up steps train, but are not measured. There are three views
# of the bytes that a rank sends in a step: what training handed over, what the strategy must send to other
# hosts for it, and what the kernel counted on the sockets. `docs/bytes.md` says what each of them covers.

# %%
steps = run.table("steps").to_pandas()
measured = steps[~steps["warmup"]]
sent_bytes = measured.groupby("cell")[["logical_tx_bytes", "predicted_tx_bytes", "tcp_tx_bytes"]].mean()
print(sent_bytes)

# %% [markdown]
# ## Time
#
# A step takes as long as its slowest rank.

# %%
step_s = measured.groupby(["cell", "step"])["wall_s"].max().groupby("cell").median()
print(step_s)

# %% [markdown]
# The next cell shows where the time of all ranks goes. `exposed_comm_s` is communication that computation
# does not hide; it includes waiting for ranks that are late, which `distsqz report` tells apart.

# %%
PHASES = ["data_s", "forward_s", "backward_s", "exposed_comm_s", "optimizer_s", "other_s"]
phase_s = measured.groupby("cell")[PHASES].sum()
shares = phase_s.div(phase_s.sum(axis="columns"), axis="index")
print(shares.round(3).to_string())

# %%
shares.plot.barh(stacked=True, xlabel="share of the step", figsize=(8, 1 + len(shares) / 2))
plt.tight_layout()
plt.show()
