"""What is wrong with the log-probs of an RL run."""

from kullback.rlhf.auditing.catalogue import AUDIT_CHECKS, AuditCheck
from kullback.rlhf.auditing.entry import audit
from kullback.rlhf.auditing.findings import Finding
from kullback.rlhf.auditing.report import AuditReport

__all__ = ["AUDIT_CHECKS", "AuditCheck", "AuditReport", "Finding", "audit"]
