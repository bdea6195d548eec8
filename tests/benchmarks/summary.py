"""What a row's turns say: medians, ratios with intervals, and who was faster."""

import statistics

from scipy.stats import binom

LEVEL = 0.95


def interval(values):
    """Two of the values between which their distribution's median lies, and with which probability.

    From the signs alone: of n independent values, fewer than k lie below the median with the probability
    of fewer than k heads in n throws. The narrowest pair (k-th from below, k-th from above) that has the
    level is taken, and the extremes if none has.
    """
    values, n = sorted(values), len(values)
    k = max([k for k in range(1, n // 2 + 1) if 1 - 2 * binom.cdf(k - 1, n, 0.5) >= LEVEL], default=1)
    return values[k - 1], values[-k], 1 - 2 * float(binom.cdf(k - 1, n, 0.5))


def ratio(theirs, ours):
    """How many times as long they took, of the turns of each round; above 1 we are faster."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    low, high, level = interval(ratios)
    verdict = "faster" if low > 1 else "slower" if high < 1 else "no difference seen"
    verdict = verdict if level >= LEVEL else "too few rounds to say"
    return {
        "median": statistics.median(ratios),
        "low": low,
        "high": high,
        "level": level,
        "verdict": verdict,
    }


def with_ratios(row):
    """The row, each contestant but the first (which is ours) with its ratios to it in wall and CPU time."""
    (_, ours), *others = row["contestants"].items()
    for _, figures in others:
        figures["ratio"] = {time: ratio(figures[time], ours[time]) for time in ("wall", "cpu")}
    return row


def table(row):
    """Lines to print."""
    others = "" if row["others"] is None else f", others had {row['others']:.0%} of the machine"
    lines = [f"{row['group']}: {row['name']}, {row['rounds']} rounds, {row['threads']} threads{others}"]
    for name, figures in row["contestants"].items():
        wall, cpu = ([1e3 * s for s in figures[time]] for time in ("wall", "cpu"))
        line = f"  {name:40s} {statistics.median(wall):9.2f} ms [{min(wall):.2f}, {max(wall):.2f}]"
        line += f"  CPU {statistics.median(cpu):9.2f}  first {figures['first']:6.2f} s"
        line += "" if figures["peak_bytes"] is None else f"  {figures['peak_bytes'] / 1e6:7.1f} MB"
        for time, one in figures.get("ratio", {}).items():
            line += f"  {time} {one['median']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
        lines.append(line)
    return "\n".join(lines)
