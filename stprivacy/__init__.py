"""Privacy-preserving action recognition as a pipeline: learn an anonymizer, release clips, measure what leaks.

Start with `stprivacy --help`, the README, or `stprivacy.config` (every number that changes a result).
"""

__version__ = "0.1.0"
