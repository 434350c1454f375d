"""One word for a divergence everywhere. Tables of functions by name take their names from here.

A distance is never called by its divergence's name: it is the root where there is one ("js_distance", "hellinger").
"""

DIVERGENCES = {
    "kl": "KL(p‖q)",
    "reverse_kl": "KL(q‖p)",
    "symmetric_kl": "w·KL(p‖q) + (1-w)·KL(q‖p)",
    "jeffreys": "KL(p‖q) + KL(q‖p)",
    "skew_kl": "KL(p‖w·p + (1-w)·q)",
    "skew_reverse_kl": "KL(q‖w·q + (1-w)·p)",
    "js": "Jensen-Shannon divergence",
    "js_distance": "its square root",
    "renyi": "Rényi divergence of order alpha",
    "hellinger": "Hellinger distance, √(1 - Σ√(p·q))",
    "squared_hellinger": "its square",
    "tv": "total variation, ½ Σ|p - q|",
    "chi2": "Σ(p - q)²/q",
    "neyman_chi2": "Σ(p - q)²/p",
    "cressie_read": "power divergence, 2/(λ(λ+1))·(Σ p·(p/q)^λ - 1)",
    "itakura_saito": "Σ p/q - ln(p/q) - 1",
    "psi": "population stability index, jeffreys of shares",
    "entropy": "-Σ p·ln p, of one row",
}
# losses of a student against a teacher, the reference: names of the libraries that train with them
LOSSES = {
    "forward_kl": "kl",
    "jsd": "GKD's, of weight beta: KL at its ends",
    "soft_cross_entropy": "forward_kl + entropy of the teacher",
}
