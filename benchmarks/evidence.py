"""Measures the statistics of rollouts: how often they are wrong, and how long they take, in streams that are made up.

Each check is a bar that the decision code has to pass: a share of runs, or a number of events, and its bound. Beside those that must not be
passed stand checks of the usual methods on the same streams, which must fail: a bar that nothing fails shows nothing. Seeds are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.measure import Progress
from benchmarks.report import Sheet
from penstock.engine.assign import arms_of, numbers_of
from penstock.evidence.bandit import Arms
from penstock.evidence.counts import Failures, Shares, log_ratio
from penstock.evidence.losses import losses, paired, scored
from penstock.evidence.mean import growth, log_evidence, log_mean

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

ALPHA = 0.05
ACT = math.log(1 / ALPHA)
NORMAL = 1.6448536269514722  # of a one-sided z-test at 5 %
NEVER = 10**9


class Bar(NamedTuple):
    """A check: what was found, and the bound that it has to keep; `least` says that it is a lower bound. `runs` are its own, 0: all."""

    what: str
    found: float
    bound: float
    least: bool = False
    runs: int = 0

    @property
    def holds(self) -> bool:
        return self.found >= self.bound if self.least else self.found <= self.bound


def measure(share: float, progress: Progress) -> tuple[Sheet, bool]:
    """Returns the bars and whether all hold. `share` of the runs are made, or a few; bounds of shares grow with the error."""
    bars: list[Bar] = []
    for number, (name, check) in enumerate(CHECKS.items()):
        progress(name, number, len(CHECKS))
        runs = max(int(share * RUNS[name]), LEAST.get(name, 60))
        bars += [one._replace(what=f"{name}: {one.what} ({one.runs or runs:,} runs)") for one in check(np.random.default_rng(number), runs)]
    rows = tuple(
        (one.what, f"{one.found:,.4g}", f"{'>=' if one.least else '<='} {one.bound:,.4g}", "yes" if one.holds else "NO") for one in bars
    )
    return Sheet("Statistics of rollouts", ("check", "found", "bar", "holds"), rows), all(one.holds for one in bars)


def allowed(rate: float, runs: int) -> float:
    """Returns a rate and three standard errors of its estimate."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / runs)


def needed(rate: float, runs: int) -> float:
    """Returns a rate less three standard errors of its estimate."""
    return rate - 3 * math.sqrt(rate * (1 - rate) / runs)


def first(reached: npt.NDArray[np.bool_], step: int) -> Whole:
    """Returns at which event each run has reached it, [runs], of looks [runs, looks] every `step` events; NEVER where it has not."""
    return np.where(reached.any(axis=1), (reached.argmax(axis=1) + 1) * step, NEVER)


def pieces(runs: int, most: int = 500) -> Iterator[int]:
    """Yields how many runs are made together."""
    for at in range(0, runs, most):
        yield min(most, runs - at)


# -- two arms of equal size ----------------------------------------------------------------------------------------------------------


def two_arms(random: np.random.Generator, runs: int, looks: int, live: float, candidate: float) -> tuple[Floats, Floats, Floats]:
    """Returns S and V of the overlap score, and the z statistic of pooled counts, at a look every 100 events: [runs, looks] each."""
    ours = random.binomial(100, 0.5, (runs, looks))
    failed, others = random.binomial(ours, candidate), random.binomial(100 - ours, live)
    total, square = np.zeros((runs, looks)), np.zeros((runs, looks))
    for arm, outcome, count in ((1.0, 1.0, failed), (1.0, 0.0, ours - failed), (0.0, 1.0, others), (0.0, 0.0, 100 - ours - others)):
        z, _ = scored(np.array([arm]), np.array([0.5]), np.array([outcome]), live)
        total, square = total + count * z[0], square + count * z[0] ** 2
    n, k, m, j = (np.cumsum(one, axis=1) for one in (ours, failed, 100 - ours, others))
    pooled = np.clip((k + j) / (n + m), 1e-12, 1 - 1e-12)
    peeked = (j / np.maximum(m, 1) - k / np.maximum(n, 1)) / np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(n, 1) + 1 / np.maximum(m, 1)))
    return np.cumsum(total, axis=1), np.cumsum(square, axis=1), peeked


def planned(rate: float, events: int) -> float:
    """Returns V after so many events in two equal arms."""
    return 0.25 * rate * (1 - rate) * events


def equal_models(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    for rate in (0.08, 0.01):
        promoted = peeked = 0
        for some in pieces(runs):
            s, v, z = two_arms(random, some, 1000, rate, rate)
            promoted += int((log_evidence(s, v, growth(planned(rate, 110_000), ALPHA)) >= ACT).any(axis=1).sum())
            peeked += int((z >= NORMAL).any(axis=1).sum())
        yield Bar(f"promoted falsely at an error rate of {rate:.0%}", promoted / runs, allowed(ALPHA, runs))
        yield Bar("  a z-test at every look promotes falsely", peeked / runs, 0.35, least=True)


def better_model(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    found = []
    for some in pieces(runs, 200):
        s, v, _ = two_arms(random, some, 4000, 0.080, 0.076)
        found.append(first(log_evidence(s, v, growth(planned(0.08, 110_000), ALPHA)) >= ACT, 100))
    events = np.concatenate(found)
    yield Bar("events until 5 % fewer errors are promoted, median", float(np.median(events)), 125_000)
    yield Bar("  and in 80 % of the runs", float(np.quantile(events, 0.8)), 220_000)


# -- shadows -------------------------------------------------------------------------------------------------------------------------


def scores(random: np.random.Generator, outcome: Floats, ours: float, theirs: float, alike: float) -> tuple[Floats, Floats]:
    """Returns the probabilities of two models, of an AUC each, whose scores are correlated within a class."""
    base = math.log(0.23 / 0.77)
    shared = random.standard_normal(outcome.shape)
    found = []
    for auc in (ours, theirs):
        apart = math.sqrt(2) * _quantile(auc)
        noise = math.sqrt(alike) * shared + math.sqrt(1 - alike) * random.standard_normal(outcome.shape)
        found.append(1 / (1 + np.exp(-(apart * ((outcome - 0.5) * apart + noise) + base))))
    return found[0], found[1]


def _quantile(p: float) -> float:
    low, high = -8.0, 8.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * math.erfc(-middle / math.sqrt(2)) < p else (low, middle)
    return low


def shadow(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    labels, first_look = 20_000, 300
    for what, theirs in (("better", 0.905), ("equal", 0.900)):
        found = []
        for some in pieces(runs, 100):
            outcome = (random.random((some, labels)) < 0.23).astype(np.float64)
            live, candidate = scores(random, outcome, 0.900, theirs, 0.95)
            z = paired(losses("log_loss", live, outcome), losses("log_loss", candidate, outcome))
            evidence = log_evidence(np.cumsum(z, axis=1), np.cumsum(z * z, axis=1), growth(float((z * z).mean()) * 5000, ALPHA))
            found.append(first(evidence[:, first_look - 1 :] >= ACT, 1) + first_look - 1)
        events = np.concatenate(found)
        if what == "better":
            yield Bar("labels until an AUC of .905 is promoted over .900, in 80 % of the runs", float(np.quantile(events, 0.8)), 7_500)
        else:
            yield Bar("equal models promoted falsely", float((events < NEVER).mean()), allowed(ALPHA, runs))


def late_labels(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    """Equal models; a positive label comes after 2,000 events, a negative one after 20,000."""
    events, window = 60_000, 20_000
    mature = arrived = 0
    for some in pieces(runs, 50):
        outcome = (random.random((some, events)) < 0.23).astype(np.float64)
        live, other = scores(random, outcome, 0.900, 0.900, 0.80)
        candidate = np.clip(other * 1.25, 0, 1)  # higher scores: smaller losses on positives, larger ones on negatives
        a, b = losses("brier", live, outcome), losses("brier", candidate, outcome)
        z = paired(a, b) - paired(a, b).mean()  # equally good over all events
        order = np.argsort(np.arange(events) + np.where(outcome > 0.5, 2_000, window), axis=1, kind="stable")
        rho = growth(float((z * z).mean()) * 10_000, ALPHA)
        for name, one in (("mature", z), ("arrived", np.take_along_axis(z, order, axis=1))):
            reached = (log_evidence(np.cumsum(one, axis=1), np.cumsum(one * one, axis=1), rho)[:, 299::100] >= ACT).any(axis=1).sum()
            mature, arrived = mature + int(reached) * (name == "mature"), arrived + int(reached) * (name == "arrived")
    yield Bar("promoted falsely with a maturity window", mature / runs, allowed(ALPHA, runs))
    yield Bar("  evidence in the order of arrival promotes falsely", arrived / runs, 0.9, least=True)


# -- ramps ---------------------------------------------------------------------------------------------------------------------------

STAGES = (0.01, 0.05, 0.25, 0.50)


def ramp(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    """Equal models on 1, 5, 25 and 50 % of the events, 40,000 events each, while the base rate drifts."""
    looks = 800
    propensity = np.repeat(STAGES, looks // len(STAGES))
    for begin, end in ((0.05, 0.13), (0.13, 0.05)):
        rate = np.linspace(begin, end, looks)
        wrong = np.zeros(4)
        for some in pieces(runs, 250):
            ours = random.binomial(200, propensity, (some, looks))
            failed, others = random.binomial(ours, rate), random.binomial(200 - ours, rate)
            total, square = np.zeros((some, looks)), np.zeros((some, looks))
            for arm, outcome, count in ((1, 1, failed), (1, 0, ours - failed), (0, 1, others), (0, 0, 200 - ours - others)):
                z, _ = scored(np.full(looks, arm, float), propensity, np.full(looks, outcome, float), 0.09)
                total, square = total + count * z, square + count * z * z
            s, v = np.cumsum(total, axis=1), np.cumsum(square, axis=1)
            rho = growth(planned(0.09, 40_000), ALPHA)
            n, k, m, j = (np.cumsum(one, axis=1) for one in (ours, failed, 200 - ours, others))
            n, m = np.maximum(n, 1), np.maximum(m, 1)
            variance = np.maximum((k / n) * (1 - k / n) / n + (j / m) * (1 - j / m) / m, 1e-9)
            apart = (j / m - k / n) / variance
            pooled = growth(1 / 2e-6, ALPHA)
            for at, evidence in enumerate(
                (
                    log_evidence(s, v, rho),
                    log_evidence(-s, v, rho),
                    log_evidence(apart, 1 / variance, pooled),
                    log_evidence(-apart, 1 / variance, pooled),
                )
            ):
                wrong[at] += (evidence[:, 10:] >= ACT).any(axis=1).sum()
        way = f"while errors go from {begin:.0%} to {end:.0%}"
        yield Bar(f"promoted falsely {way}", wrong[0] / runs, allowed(ALPHA, runs))
        yield Bar(f"aborted falsely {way}", wrong[1] / runs, allowed(ALPHA, runs))
        yield Bar("  pooled counts decide falsely", max(wrong[2:]) / runs, 0.9, least=True)


def keys(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    """Equal models, whole keys in one arm, events of a key alike."""
    events, step = 100_000, 100
    for count, alike in ((5_000, 0.09), (2_000, 0.33)):
        by_key = by_event = 0
        strength = 1 / alike - 1
        rho = growth(planned(0.08, 110_000), ALPHA)
        for _ in range(runs):
            rate = random.beta(0.08 * strength, 0.92 * strength, count)
            arm = (random.random(count) < 0.5).astype(np.float64)
            often = random.gamma(0.5, 2.0, count) if alike < 0.2 else np.ones(count)  # most events are of few keys
            of = random.choice(count, events, p=often / often.sum())
            failed = (random.random(events) < rate[of]).astype(np.float64)
            z, _ = scored(arm[of], np.full(events, 0.5), failed, 0.08)
            s = np.cumsum(z)[step - 1 :: step]
            by_event += bool((log_evidence(s, np.cumsum(z * z)[step - 1 :: step], rho) >= ACT).any())
            by_key += bool((log_evidence(s, squares(of, z)[step - 1 :: step], rho) >= ACT).any())
        yield Bar(f"promoted falsely with {count:,} keys, V by key", by_key / runs, allowed(ALPHA, runs))
        yield Bar("  V by event promotes falsely", by_event / runs, 0.12, least=True)


def squares(of: npt.NDArray[np.integer], z: Floats) -> Floats:
    """Returns V by unit after each event, [N]."""
    order = np.argsort(of, kind="stable")
    own, sums = of[order], np.cumsum(z[order])
    begins = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
    before = np.repeat(np.r_[0.0, sums][begins], np.diff(np.r_[begins, len(own)]))
    within = sums - before
    added = np.empty_like(z)
    added[order] = within**2 - (within - z[order]) ** 2
    return np.cumsum(added)


def whole_rollouts(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    """A nested ramp over 20,000 sticky keys, that goes on after 20,000 events unless the candidate looks worse; the base rate drifts."""
    for what, ratio, margin, least in (
        ("equal models promoted falsely", 1.0, 0.0, None),
        ("worse by exactly the margin of .01, promoted falsely", None, 0.01, None),
        ("equal models promoted by a margin of .01", 1.0, 0.01, 0.95),
        ("aborted at twice the errors", 2.0, 0.0, 0.99),
    ):
        promoted = aborted = 0
        for number in range(runs if least is None else max(runs // 10, 60)):
            outcome = rollout(random, number, ratio, margin)
            promoted, aborted = promoted + (outcome == "promote"), aborted + (outcome == "abort")
        made = runs if least is None else max(runs // 10, 60)
        if ratio == 2.0:
            yield Bar(what, aborted / made, needed(0.99, made), least=True, runs=made)
            yield Bar("  and promoted", promoted / made, 0.001, runs=made)
        elif least is not None:
            yield Bar(what, promoted / made, needed(least, made), least=True, runs=made)
        else:
            yield Bar(what, promoted / made, allowed(ALPHA, made))


def rollout(random: np.random.Generator, number: int, ratio: float | None, margin: float) -> str:
    """Returns how one rollout ends: promote, abort, or "" at its end."""
    count, step, looks = 20_000, 200, 1000
    of = random.integers(0, count, step * looks)
    level = random.gamma(2, 0.5, count)
    numbers = numbers_of("main", f"run-{number}", "", (b"%d" % key for key in range(count)))
    rate = np.clip(np.linspace(0.06, 0.10, step * looks) * level[of], 0, 1)
    worse = np.clip(rate * ratio if ratio is not None else rate + margin, 0, 1)
    drawn = random.random(step * looks)
    held = np.zeros(count)
    s = v = 0.0
    guard = Failures()
    stage, since = 0, 0
    rho = growth(planned(0.08, 50_000), ALPHA)
    for look in range(looks):
        at = slice(look * step, (look + 1) * step)
        p = STAGES[stage]
        some = of[at]
        arm = (arms_of(numbers[some], (p, 1 - p)) == 0).astype(np.float64)
        failed = (drawn[at] < np.where(arm == 1, worse[at], rate[at])).astype(np.float64)
        z, _ = scored(arm, np.full(step, p), failed, 0.08, margin)
        touched = np.unique(some)
        before = held[touched]
        held += np.bincount(some, z, count)
        v += float((held[touched] ** 2 - before**2).sum())
        s += float(z.sum())
        guard = guard.add(p, int((failed * arm).sum()), int((failed * (1 - arm)).sum()))
        if guard.log_evidence() >= math.log(100):
            return "abort"
        if look >= 10 and float(log_evidence(s, v, rho)) >= ACT:
            return "promote"
        since += step
        if since >= 20_000 and stage < len(STAGES) - 1 and s > -math.sqrt(v):
            stage, since = stage + 1, 0
    return ""


# -- guards, shares, bandits, hashes ---------------------------------------------------------------------------------------------------


def guards(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    act = math.log(100)
    for p, rate, ratio, what in (
        (0.01, 0.01, 1.25, "aborted falsely at the margin, 1 % of the traffic"),
        (0.25, 0.01, 1.25, "aborted falsely at the margin, 25 % of the traffic"),
        (0.01, 0.01, 2.0, "failures of a candidate with twice the errors"),
        (0.01, 0.01, 5.0, "failures of a candidate with five times the errors"),
    ):
        most = 12_000 if ratio < 5 else 2_000
        ours, theirs = log_ratio(p, 1.25)
        chance = p * ratio / (p * ratio + 1 - p)
        ended, seen = [], []
        for some in pieces(runs, 50):
            candidate = np.cumsum(random.random((some, most)) < chance, axis=1)
            live = np.arange(1, most + 1) - candidate
            reached = np.zeros((some, most), bool)
            for one in range(some):
                reached[one] = log_mean(candidate[one, :, None] * ours + live[one, :, None] * theirs) >= act
            at = np.where(reached.any(axis=1), reached.argmax(axis=1), most)
            ended.append(at)
            seen.append(np.where(at < most, candidate[np.arange(some), np.minimum(at, most - 1)], NEVER))
        if ratio == 1.25:
            yield Bar(what, float((np.concatenate(ended) < most).mean()), allowed(0.01, runs))
        else:
            failures = float(np.median(np.concatenate(seen)))
            yield Bar(f"{what}, median", failures, 75 if ratio == 2.0 else 15)
            events = float(np.median(np.concatenate(ended))) / (rate * (p * ratio + 1 - p))
            yield Bar(f"events until then at a failure rate of {rate:.0%}", events, 400_000 if ratio == 2.0 else 25_000)


def shares(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    for stated, real, alpha, most, what in (
        ((0.5, 0.5), 0.50, 0.05, 200_000, "half and half, found wrong falsely"),
        ((0.01, 0.99), 0.01, 0.05, 200_000, "1 %, found wrong falsely"),
        ((0.5, 0.5), 0.51, 0.001, 120_000, "units until 51 % is found where 50 % is stated, median"),
        ((0.01, 0.99), 0.012, 0.001, 120_000, "units until 1.2 % is found where 1 % is stated, median"),
    ):
        step, found = 500, []
        for _ in range(runs):
            sofar, at = Shares(stated), NEVER
            ours = random.binomial(step, real, most // step)
            for look, one in enumerate(ours.tolist(), 1):
                sofar = sofar.add((one, step - one))
                if sofar.log_evidence() >= math.log(1 / alpha):
                    at = look * step
                    break
            found.append(at)
        if real == stated[0]:
            yield Bar(what, float((np.array(found) < NEVER).mean()), allowed(alpha, runs))
        else:
            yield Bar(what, float(np.median(found)), 60_000)


def bandits(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    rates, events, batch = np.array([0.05, 0.06, 0.08]), 100_000, 100
    uniform = events * (rates.max() - rates.mean())
    for floor, bound in ((0.0, 0.05), (0.01, 0.08), (0.05, 0.20)):
        regret = 0.0
        for _ in range(runs):
            arms, waiting = Arms.of(3), list[tuple[Floats, Floats]]()
            for _ in range(events // batch):
                chosen = random.multinomial(batch, arms.propensities(floor))
                good = random.binomial(chosen, rates)
                regret += float((chosen * (rates.max() - rates)).sum())
                waiting.append((good.astype(np.float64), (chosen - good).astype(np.float64)))
                if len(waiting) > 10:  # outcomes come 1,000 events later
                    arms = arms.add(*waiting.pop(0))
        yield Bar(f"regret of Thompson sampling, floor {floor:.0%}, as a share of that of equal arms", regret / runs / uniform, bound)


def hashes(random: np.random.Generator, runs: int) -> Iterator[Bar]:
    units = [b"%d" % number for number in range(runs)]
    numbers = [numbers_of("layer", f"experiment {at}", "", units) for at in range(5)]
    worst = min(_chi_square(np.bincount((one * 1000).astype(int), minlength=1000), runs / 1000) for one in numbers)
    yield Bar("smallest p of 1,000 equal buckets, 5 experiments", worst, 1e-4, least=True)
    pairs = [
        _chi_square(np.bincount((a * 20).astype(int) * 20 + (b * 20).astype(int), minlength=400), runs / 400)
        for at, a in enumerate(numbers) for b in numbers[at + 1 :]
    ]  # fmt: skip
    yield Bar("smallest p of two experiments being independent, 10 pairs", min(pairs), 1e-4, least=True)
    ramped = [int(((one < small) & ~(one < large)).sum()) for one in numbers for small, large in ((0.01, 0.05), (0.05, 0.25))]
    yield Bar("units that a growing share moves away from the candidate", max(ramped), 0)


def _chi_square(counts: npt.NDArray[np.integer], expected: float) -> float:
    """Returns the p of equal counts (Wilson and Hilferty's approximation)."""
    free = len(counts) - 1
    ratio = float(((counts - expected) ** 2 / expected).sum()) / free
    z = (ratio ** (1 / 3) - (1 - 2 / (9 * free))) / math.sqrt(2 / (9 * free))
    return 0.5 * math.erfc(z / math.sqrt(2))


CHECKS: dict[str, Callable[[np.random.Generator, int], Iterator[Bar]]] = {
    "A/B, equal models": equal_models, "A/B, better model": better_model, "shadow": shadow, "late labels": late_labels, "ramp": ramp,
    "keys": keys, "whole rollouts": whole_rollouts, "guard": guards, "sample ratio": shares, "bandit": bandits, "assignment": hashes,
}  # fmt: skip
LEAST = {"shadow": 300, "keys": 100}  # a quantile of fewer runs says little
RUNS = {
    "A/B, equal models": 10_000, "A/B, better model": 1_000, "shadow": 1_000, "late labels": 300, "ramp": 1_000,
    "keys": 1_000, "whole rollouts": 1_000, "guard": 3_000, "sample ratio": 600, "bandit": 60, "assignment": 1_000_000,
}  # fmt: skip
