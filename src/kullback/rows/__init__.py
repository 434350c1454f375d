"""Functions of rows: divergences of pairs of rows, entropies and normalisers of single ones.

p and q are measures that get normalised, so counts and unnormalised log-probs work as they are. Every function
takes arrays of any leading shape, with the vocabulary along `axis`.
"""

from kullback.rows.contributions import kl_contributions
from kullback.rows.cressie_read import cressie_read_divergence
from kullback.rows.elementwise import entr, kl_div, rel_entr
from kullback.rows.entropies import entropy, log_softmax, logsumexp
from kullback.rows.family import FAMILY, f_divergence
from kullback.rows.itakura_saito import itakura_saito_divergence
from kullback.rows.kl import cross_entropy, kl_divergence
from kullback.rows.matrix import divergence_matrix
from kullback.rows.mixtures import (
    generalized_jsd,
    jensen_shannon_distance,
    jensen_shannon_divergence,
    skew_kl_divergence,
    symmetric_kl_divergence,
)
from kullback.rows.renyi import chi2_divergence, hellinger_distance, renyi_divergence, total_variation
from kullback.rows.terms import (
    bregman_terms as bregman_terms,
    log_product as log_product,
    log_ratio as log_ratio,
    measure_kl as measure_kl,
    phi as phi,
    relative_entropy_term as relative_entropy_term,
    two_product as two_product,
)

__all__ = [
    "FAMILY",
    "chi2_divergence",
    "cressie_read_divergence",
    "cross_entropy",
    "divergence_matrix",
    "entr",
    "entropy",
    "f_divergence",
    "generalized_jsd",
    "hellinger_distance",
    "itakura_saito_divergence",
    "jensen_shannon_distance",
    "jensen_shannon_divergence",
    "kl_contributions",
    "kl_div",
    "kl_divergence",
    "log_softmax",
    "logsumexp",
    "rel_entr",
    "renyi_divergence",
    "skew_kl_divergence",
    "symmetric_kl_divergence",
    "total_variation",
]
