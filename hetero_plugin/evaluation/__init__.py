"""Evaluation: tasks, paired statistics, attestation, evaluation under noise, the report."""
