"""Writes `values.json` beside it: inputs and results of other libraries, for tests/statistics.rs.

    python make.py [OUT]

Needs numpy, scipy and statsmodels; VERSIONS below were used. Numbers are random but rounded to a
few decimals, so that the file holds exactly what was computed with.
"""
import json, pathlib, sys

import numpy as np
from scipy import stats
from scipy.spatial.distance import pdist, squareform
from statsmodels.stats.multitest import multipletests

VERSIONS = "Python 3.11.7, numpy 2.4.6, scipy 1.17.1, statsmodels 0.15.0"
out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
rng = np.random.default_rng(0)


def kolmogorov():
    """kstest with the exact distribution of D for n values."""
    cases = []
    for n in (10, 40, 200):
        # Uniform, and further and further from it.
        for power in (1.0, 1.15, 1.3, 1.5, 1.8):
            values = np.round(rng.uniform(size=n) ** power, 5)
            found = stats.kstest(values, "uniform", method="exact")
            cases.append({"values": values.tolist(), "statistic": found.statistic, "p": found.pvalue})
    return cases


def student():
    """Two-sided p-values, and the normal distribution function."""
    degrees = (0.5, 1, 2, 5, 10, 29, 100, 1999, 50000, 999999, 1000001, 1e9)
    ts = (0.001, 0.3, 1.0, 1.7, 1.8, 2.5, 4.0, 9.0)
    return {
        "two_sided": [[t, v, 2 * stats.t.sf(t, v)] for v in degrees for t in ts],
        "normal": [[x, stats.norm.cdf(x)] for x in (-30.0, -8.0, -3.0, -1.0, 0.0, 0.5, 2.0, 6.0)],
    }


def holm():
    cases = []
    for count in (1, 2, 5, 12):
        p = np.round(rng.uniform(size=count) ** 3, 6)
        p[count // 2] = p[0]  # ties
        cases.append([p.tolist(), multipletests(p, method="holm")[1].tolist()])
    return cases


def hsic():
    """HSIC as its definition says: traces of products with the centring matrix."""
    cases = []
    for n, noise in ((20, 0.3), (31, 2.0)):
        a = np.round(rng.normal(size=(n, 3)), 3)
        b = np.round(a[:, :2] ** 2 + noise * rng.normal(size=(n, 2)), 3)
        h = np.eye(n) - 1 / n

        def kernel(x):
            d = pdist(x)
            return np.exp(-squareform(d) ** 2 / (2 * np.median(d) ** 2))

        k, l = kernel(a), kernel(b)
        of = lambda k, l: np.trace(k @ h @ l @ h) / n**2
        cases.append({
            "a": a.tolist(), "b": b.tolist(), "value": of(k, l),
            "normalized": of(k, l) / np.sqrt(of(k, k) * of(l, l)),
        })
    return cases


def bootstrap():
    """Percentile intervals of means, with many more resamples than ours."""
    cases = []
    for n in (25, 120):
        values = np.round(rng.exponential(size=n), 3)
        found = stats.bootstrap(
            (values,), np.mean, n_resamples=200_000, batch=10_000, method="percentile", rng=rng
        )
        low, high = found.confidence_interval
        cases.append({
            "values": values.tolist(), "low": low, "high": high, "error": found.standard_error,
        })
    return cases


parts = (kolmogorov, student, holm, hsic, bootstrap)
# One case per line.
lines = []
for part in parts:
    found = part()
    dumped = (
        "{" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items()) + "}"
        if isinstance(found, dict)
        else "[" + ",\n".join(json.dumps(c) for c in found) + "]"
    )
    lines.append(f"{json.dumps(part.__name__)}: {dumped}")
(out / "values.json").write_text("{" + ",\n".join(lines) + "}\n")
