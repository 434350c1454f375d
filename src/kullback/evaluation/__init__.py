"""From files of logits to a report: sources, jobs, statistics."""
