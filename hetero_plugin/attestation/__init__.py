"""Proof that the noise is where it should be: what every engine's attestation has in common.

`attest` is the procedure, for any engine that has a probe (``hf/probe.py``, ``vllm/probe``);
`problems` and `require` say whether the record that it returns proves what a result claims.
"""

from hetero_plugin.attestation.probe import Probe, ProbedSite
from hetero_plugin.attestation.procedure import KNOCK_IN_SCALE, KNOCK_IN_SIGMA, attest
from hetero_plugin.attestation.record import Refused, problems, require, signature, versions

__all__ = [
    "KNOCK_IN_SCALE",
    "KNOCK_IN_SIGMA",
    "Probe",
    "ProbedSite",
    "Refused",
    "attest",
    "problems",
    "require",
    "signature",
    "versions",
]
