"""Divergences from samples: counts with smoothing and bias correction, nearest neighbours, transport."""

from kullback.samples.counts import CountEstimate, divergence_from_counts
from kullback.samples.information_estimate import MutualInformationEstimate, mutual_information_estimate
from kullback.samples.likelihood import LikelihoodParts, likelihood_parts
from kullback.samples.mutual_information import (
    conditional_mutual_information,
    knn_mutual_information,
    mutual_information,
)
from kullback.samples.neighbours import NeighbourEstimate, knn_kl_divergence, knn_kl_divergence_from_density
from kullback.samples.shares import evaluate as evaluate, psi_terms as psi_terms
from kullback.samples.smoothing import Smoothing as Smoothing, smooth, smoothing_parameters as smoothing_parameters
from kullback.samples.sparse import sparse_divergence
from kullback.samples.transport import (
    energy_distance,
    integral_of_absolute as integral_of_absolute,
    wasserstein_distance,
    wasserstein_distance_histograms,
)

__all__ = [
    "CountEstimate",
    "LikelihoodParts",
    "MutualInformationEstimate",
    "NeighbourEstimate",
    "conditional_mutual_information",
    "divergence_from_counts",
    "energy_distance",
    "knn_kl_divergence",
    "knn_kl_divergence_from_density",
    "knn_mutual_information",
    "likelihood_parts",
    "mutual_information",
    "mutual_information_estimate",
    "smooth",
    "sparse_divergence",
    "wasserstein_distance",
    "wasserstein_distance_histograms",
]
