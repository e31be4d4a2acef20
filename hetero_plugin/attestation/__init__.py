"""Proof that the noise is where it should be: what every engine's attestation has in common.

Each engine's room has the probe that runs it (``hf.attest``, ``vllm.attest``).
"""
