"""Many candidates of one base in one table: ranked, with sizes, the frontier and which cannot be told apart."""

from kullback.evaluation.table.rows import STATISTICS as STATISTICS, CandidateRow as CandidateRow
from kullback.evaluation.table.tables import CandidateTable, read_table, table_of
from kullback.evaluation.table.words import statistic_text as statistic_text

__all__ = ["CandidateTable", "read_table", "table_of"]
