"""What the columns and words of a report mean, a line each, for those that a report shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from distsqz.report.formats import column_text
from distsqz.report.measured_run import MeasuredRun
from distsqz.report.section import Section

TERMS = {
    "cell": "one model under one strategy with one set of options",
    "strategy": "how workers agree: ddp is a ring all-reduce, ps a parameter server, reduction_tree a "
    "binomial tree, alone one worker by itself",
    "world_size": "number of workers (ranks)",
    "hosts": "number of hosts that the workers are on",
    "steps": "measured steps, without warm-up",
    "params": "parameters of the model",
    "payload_bytes": "bytes of the gradients of all trained parameters, once",
    "logical_tx_bytes": "bytes that training hands to the communication layer in a step",
    "predicted_tx_bytes": "bytes that the strategy must send to other hosts for them, by its formula",
    "tcp_tx_bytes": "payload that a worker's sockets to other hosts sent, by the kernel's counters, each "
    "byte once",
    "tcp_local_tx_bytes": "payload that a worker sent to processes on its own host",
    "nic_tx_bytes": "bytes through the host's network interface, of every process",
    "wire_tx_bytes": "bytes of frames through the queue that shapes an emulated host's link, headers "
    "included",
    "host_link_bytes": "bytes that the busiest host's link must carry in one direction, for all processes on "
    "it",
    "tcp_vs_predicted": "how far TCP's count is from the prediction",
    "wire_vs_tcp": "bytes on the wire for each byte of TCP payload of the host",
    "step_s": "time of a step, the median over steps (of means of blocks under ps); the slowest rank's",
    "compute_s": "time in which a rank loads data, computes and updates, median over steps of the ranks' "
    "mean",
    "exposed_comm_s": "time that the last rank waits for transfers after its own gradients are ready",
    "comm_share": "exposed communication's share of the ranks' time",
    "wait_s": "time that other ranks wait beyond that, for a rank that comes later",
    "wait_share": "waiting's share of the ranks' time",
    "samples_per_s": "images a second of all workers together",
    "busbw_bytes_per_s": "bytes a second on each link of the ring while an all-reduce lasts",
    "busbw_vs_goodput": "busbw as a share of what one TCP stream carried before training",
    "comm_vs_bound": "time that transfers were in flight over the least that the links need",
    "accuracy": "top-1 accuracy on the validation images at the last evaluation",
    "small": "the smaller model, or the smaller value of an option",
    "large": "the larger model, or the larger value of an option",
    "option": "the only option in which the two cells differ",
    "bytes_ratio": "bytes of the larger over those of the smaller; of ps over all-reduce, of all processes "
    "together",
    "bytes_source": "what the ratio of bytes is of: tcp counts, or predicted bytes",
    "step_ratio": "step time of the larger over that of the smaller, or of ps over all-reduce",
    "paired": "whether blocks that followed each other were compared, so that a drifting machine cancels out",
    "pairs": "number of pairs of blocks",
    "baseline_step_s": "time of a step of one worker by itself, with all cores of its host",
    "own_hosts_step_s": "time of a step that hosts would make which share no cores, computed",
    "speedup_ratio": "images a second of all workers over those of one worker by itself",
    "efficiency_share": "the speed-up divided by the number of hosts; 100% would be each host as fast as one "
    "alone",
    "servers": "number of a parameter server's shards",
    "placement": "whether shards are on the workers' hosts (colocated) or on hosts of their own (dedicated)",
    "consistency": "when an update is made: from all gradients (sync) or from each (async, ssp)",
    "goodput_bytes_per_s": "TCP payload a second that one stream carried before training",
    "rtt_us": "round-trip time of one byte between two hosts' programs",
    "shard": "one server's part of the parameters",
    "queue_wait_s": "median time from a push's arrival until the shard began to work on it",
    "service_s": "median time that the shard worked on a push",
    "staleness": "updates by others between reading parameters and the update made from them",
    "rate_bits_per_s": "rate of every emulated link, in each direction",
    "host_rates_bits_per_s": "rate of each host's emulated link, in the order of ranks and servers",
    "computed": "whether a speed-up was computed for hosts that share no cores",
    "time_ratio": "geometric mean of the sessions' ratios",
    "session_ratio": "the ratio in each session",
    "sessions": "number of sessions, each of which started its own workers",
    "peer_host": "the host at the other end",
    "goodput_bits_per_s": "the same goodput in bits a second",
    "tx_bytes": "bytes that were sent",
    "retrans_bytes": "bytes that TCP sent again",
    "retrans_share": "bytes sent again as a share of those sent",
    "pushes": "number of pushes that the shard took",
    "received_bytes": "bytes that the shard received",
    "dropped": "pushes that were not used",
    "busy_s": "time that the shard worked",
    "updates": "number of updates",
    "share": "share of all updates",
    "kind": "what is compared: models, strategies, values of an option, or speed-ups over one worker alone",
    "settings": "options and places in which the row differs from others of the same comparison; hosts are "
    "numbered in the order of ranks and servers",
    "other": "the upper part of the ratio",
    "base": "the lower part of the ratio",
    "run_id": "the run, which is a directory of that name",
    "small_run_id": "the run of the smaller one",
    "large_run_id": "the run of the larger one",
}
"""Meaning by column. The columns of instruments say theirs where they are declared."""

CI95 = "95% interval, within a session from its own blocks; of several sessions, with the spread between them"


def legend(
    runs: Sequence[MeasuredRun],
    sections: Sequence[Section],
    heading: Callable[[Section, str], str] | None = None,
) -> list[str]:
    """A line for each column of the tables that a report shows, in their order.

    Args:
        runs: the runs.
        sections: the sections of their report.
        heading: how a column of a section is headed; by default as in the terminal's tables.
    """
    return list(dict.fromkeys(_lines(runs, sections, heading or _shown)))


def _lines(
    runs: Sequence[MeasuredRun], sections: Sequence[Section], heading: Callable[[Section, str], str]
) -> Iterator[str]:
    declared = {column.name: column.meaning for run in runs for column in run.run.columns("steps")}
    for section in sections:
        if not section.noteworthy or not any(True for _ in section.visible()):
            continue
        for name in section.columns:
            if name.endswith("_ci95"):
                yield f"95% CI: {CI95}."
            elif meaning := TERMS.get(name):
                yield f"{heading(section, name)}: {meaning}."
            elif name in declared:
                yield f"{heading(section, name)}: {declared[name].rstrip('.')}."


def _shown(section: Section, name: str) -> str:
    """A column's heading as the table has it, with its unit."""
    values = [section.rows[index].get(name) for index in section.visible()]
    return column_text(section.headings.get(name, name), values)[0]
