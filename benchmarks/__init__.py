"""Measurements of the model and of stages: ratios of ways to do the same work, in turns within one run. See README.md.

Every way computes on one thread, as workers do: numpy's and torch's own threads would give a plain loop the cores that
workers share.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before numpy and torch are imported
    os.environ.setdefault(name, "1")
