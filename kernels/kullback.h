/* The C contract of kullback: the one place where a C signature is written.
 *
 * C and C++ users include it, cffi parses it (the part between the CDEF marks), Numba signatures derive from it.
 *
 * Every function works on rows start <= t < stop and is independent between rows, so a caller may split the rows over
 * threads as it likes and gets the same bits. Functions allocate nothing, keep no state, never raise: they return
 * KULLBACK_OK or a status, and the row it is about through `bad_row` (which may be NULL). Arguments are checked before
 * a row is read or a result is written; pointers may be NULL where it is said. How much memory lies behind a pointer is
 * the caller's word: rows start ... stop - 1 of every array. A call takes at most KULLBACK_STACK bytes of stack.
 * T rows, V outcomes (vocabulary), p is the reference of KL(p||q). Results are in nats.
 */
#ifndef KULLBACK_H
#define KULLBACK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* CDEF */

/* how elements are stored */
#define KULLBACK_FLOAT64 0
#define KULLBACK_FLOAT32 1
#define KULLBACK_FLOAT16 2
#define KULLBACK_BFLOAT16 3
/* uint16 codes; the row's two float32 `scale` and `min` lie in the 8 bytes before its first code;
   the value is scale * code + min, each step rounded to float32 (the rows of llama.cpp's _logits_ files) */
#define KULLBACK_AFFINE16 4
/* bytes as in ml_dtypes, torch and safetensors: sign, exponent, mantissa bits. E4M3FN has no infinity and one NaN (all
   other bits 1); E5M2 is the upper byte of a float16 */
#define KULLBACK_FLOAT8_E4M3FN 5
#define KULLBACK_FLOAT8_E5M2 6

/* what the elements mean */
#define KULLBACK_LOGS 0   /* logits, log-probabilities: logs of an unnormalised measure */
#define KULLBACK_MASSES 1 /* probabilities, counts: an unnormalised measure */

/* status */
#define KULLBACK_OK 0
#define KULLBACK_NEGATIVE_P 1 /* a mass of p is negative */
#define KULLBACK_NEGATIVE_Q 2 /* a mass of q is negative */
#define KULLBACK_TOKEN 3      /* a token id lies outside [0, vocab) */
/* a null pointer, a size below its least (vocab 1, others and start 0), an unknown storage, space, kind or side, codes
   as masses, an inverse temperature that is not above 0 and finite, a parameter outside its range, a `top1` that is no
   outcome of its row */
#define KULLBACK_ARGUMENT 4
/* this processor lacks what the library was built for, see kullback_supported; of functions that Numba compiles (never of
   the library): one of their kernels could not be compiled */
#define KULLBACK_UNSUPPORTED 5

/* bytes of the calling thread's stack that suffice for any function, its own and those it calls */
#define KULLBACK_STACK 131072

/* T rows somewhere in memory; never written to */
typedef struct {
  const void *data;           /* element 0 of row 0 */
  const int64_t *row_offsets; /* (T,) bytes from data to each row's element 0, or NULL: row t is t * row_stride away */
  int64_t row_stride;         /* bytes between rows, where row_offsets is NULL */
  int64_t stride;             /* bytes between neighbouring elements of a row */
  int64_t storage;            /* KULLBACK_FLOAT64 ... KULLBACK_FLOAT8_E5M2 */
} kullback_array;

/* where kullback_compare writes, (T,) each; NULL: not wanted */
typedef struct {
  double *kl;          /* KL(p||q), nats, >= 0 */
  double *reverse_kl;  /* KL(q||p), nats, >= 0 */
  double *entropy_p;   /* nats */
  double *entropy_q;   /* nats */
  double *lse_p;       /* log of p's mass */
  double *lse_q;       /* log of q's mass */
  int64_t *top1_p;     /* lowest index of the greatest element, -1 where undefined */
  int64_t *top1_q;
  double *log_prob_p;  /* log-probability of the row's token; needs tokens */
  double *log_prob_q;
  double *log_ratio;   /* log_prob_p - log_prob_q, to relative accuracy where the rows are close; needs tokens */
  double *acceptance;  /* sum of min(p, q), 0 to 1; a second look at each pair, while it lies in cache */
} kullback_comparison;

/* where kullback_describe writes, (T,) each; NULL: not wanted */
typedef struct {
  double *lse;     /* log of the mass, nats; -inf for a row without mass */
  double *entropy; /* nats */
  int64_t *top1;   /* lowest index of the greatest element, -1 where undefined */
} kullback_description;

/* where kullback_describe_tokens writes; NULL: not wanted */
typedef struct {
  double *lse;           /* (T,) log of the mass, nats; -inf for a row without mass */
  double *entropy;       /* (T,) nats */
  double *log_probs;     /* (T, K) of the tokens; -inf for one that was not kept */
  int64_t *ranks;        /* (T, K) how many outcomes are at least as probable as the token: 1 for the only greatest */
  int64_t *top_ids;      /* (T, top_k) ids of the greatest, best first, equal ones by rising id */
  double *top_log_probs; /* (T, top_k) */
} kullback_token_description;

/* 1 if this processor can run the library (x86-64: AVX2 and FMA at least), else 0. */
int kullback_supported(void);

/* All statistics of T pairs of rows, one read of each. tokens: (T,) ids, or NULL where no log_prob and no log_ratio is
   wanted; a negative id gives NaN. */
int64_t kullback_compare(const kullback_array *p, const kullback_array *q, const int64_t *tokens, int64_t vocab,
                         int64_t space, double inverse_temperature, const kullback_comparison *out, int64_t start,
                         int64_t stop, int64_t *bad_row);

/* Statistics of T rows, and the log-probabilities (T, K) of tokens (T, K), K = tokens_per_row; both may be NULL where K
   is 0; a negative id: NaN. */
int64_t kullback_describe(const kullback_array *x, const int64_t *tokens, int64_t tokens_per_row, int64_t vocab,
                          int64_t space, double inverse_temperature, const kullback_description *out,
                          double *log_probs, int64_t start, int64_t stop, int64_t *bad_row);

/* Statistics of T rows of logs x after z = slope * x, or z = limit * tanh(slope * x / limit) where limit > 0.
   tokens: (T, K) ids, NULL where K is 0; a negative id: NaN and rank -1. kept_offsets (T + 1,) and kept_ids: the
   outcomes of row t are the ids [kept_offsets[t], kept_offsets[t + 1]) alone, which rise without repeats, else
   KULLBACK_TOKEN; NULL: all. Outcomes without mass have rank vocab. Rows with a NaN or without mass: NaN, ranks and top
   ids -1. Where there are fewer than top_k outcomes, the rest is -1 and -inf. top_k > 0 needs both outputs. */
int64_t kullback_describe_tokens(const kullback_array *x, const int64_t *tokens, int64_t tokens_per_row,
                                 const int64_t *kept_offsets, const int64_t *kept_ids, int64_t top_k, int64_t vocab,
                                 double slope, double limit, const kullback_token_description *out, int64_t start,
                                 int64_t stop, int64_t *bad_row);

/* log_softmax of T rows of logs into out, row t at out + t * vocab: double if wide, else float. */
int64_t kullback_log_softmax(const kullback_array *x, int64_t vocab, double inverse_temperature, void *out,
                             int64_t wide, int64_t start, int64_t stop, int64_t *bad_row);

/* Sums of T segments. Segment t is the first lengths[t] >= 0 elements of row t of x (`length` where lengths is NULL),
   those that are not NaN and whose byte in row t of mask is not 0 (mask->data may be NULL: all). float64, compensated.
   kept: how many went into the sum; unmasked: how many with the NaNs. */
int64_t kullback_sum_segments(const kullback_array *x, const kullback_array *mask, const int64_t *lengths,
                              int64_t length, double *sums, int64_t *kept, int64_t *unmasked, int64_t start,
                              int64_t stop, int64_t *bad_row);

/* KINDS */
/* of divergence, each a file of kernels/kinds; w, c1 and c2 are the arguments weight, first and second */
#define KULLBACK_LINEAR 0    /* c1 KL(p||q) + c2 KL(q||p) */
#define KULLBACK_MIXTURE 1   /* c1 KL(p||m) + c2 KL(q||m), m = w p + (1-w) q, 0 < w < 1: Jensen-Shannon, skew KL */
#define KULLBACK_VARIATION 2 /* sum |p - q| / 2 */
#define KULLBACK_RENYI 3     /* Renyi divergence D_w(p||q), w >= 0 and not 1, inf too */
/* -sum p ln q: of kullback_divergence_gradient along p (side 0) alone, with `known` values, whatever `state` holds */
#define KULLBACK_CROSS_ENTROPY 4
#define KULLBACK_ITAKURA_SAITO 5 /* sum p/q - ln p/q - 1, of masses alone; has no gradient */
#define KULLBACK_CRESSIE_READ 6 /* 2 (sum p (p/q)^w - 1) / (w (w+1)), w finite; 2 KL(p||q) at 0, 2 KL(q||p) at -1 */
/* END KINDS */

/* doubles kept of a pair of rows between kullback_divergence and its gradient */
#define KULLBACK_STATE 9

/* A divergence of T pairs of rows into out (T,). mask: (T,) bytes or NULL; rows whose byte is 0 are not read: 0.
   state: (T, KULLBACK_STATE) for the gradient, or NULL. */
int64_t kullback_divergence(const kullback_array *p, const kullback_array *q, const uint8_t *mask, int64_t vocab,
                            int64_t space, double inverse_temperature, int64_t kind, double weight, double first,
                            double second, double *out, double *state, int64_t start, int64_t stop, int64_t *bad_row);

/* weights[t] times the gradient of that divergence of T pairs of rows of logs, along the logits of q (side 1) or of p
   (side 0), in nats, into the rows of gradient: row t at gradient + t * row_stride bytes, elements of that storage
   (KULLBACK_FLOAT64 ... KULLBACK_BFLOAT16) side by side. Rows of weight 0 are not read and get zeros. known: values
   (T,) and state are what kullback_divergence left; else they are filled. Where the gradient does not exist (an
   infinite KL(q||p) and the like) it is NaN. */
int64_t kullback_divergence_gradient(const kullback_array *p, const kullback_array *q, const double *weights,
                                     int64_t vocab, double inverse_temperature, int64_t kind, double weight,
                                     double first, double second, int64_t side, int64_t known, double *values,
                                     double *state, void *gradient, int64_t row_stride, int64_t storage, int64_t start,
                                     int64_t stop, int64_t *bad_row);

/* With s the softmax of row t of x / temperature, H its entropy and k the inverse temperature:
   k s (mass_weights[t] - entropy_weights[t] (ln s + H)) into (add: onto) row t of gradient, then id_values[i] onto
   (assign: in place of) element ids[i] for i in [offsets[t], offsets[t + 1]); a negative id is passed over.
   lse, entropy and top1 are those of kullback_describe. entropy_weights may be NULL, and entropy with them; offsets may
   be NULL, and ids and id_values with them. */
int64_t kullback_softmax_gradient(const kullback_array *x, const double *lse, const double *entropy,
                                  const int64_t *top1, const double *mass_weights, const double *entropy_weights,
                                  const int64_t *offsets, const int64_t *ids, const double *id_values, int64_t assign,
                                  int64_t add, int64_t vocab, double inverse_temperature, void *gradient,
                                  int64_t row_stride, int64_t storage, int64_t start, int64_t stop, int64_t *bad_row);

/* The softmax mass of T rows of x / temperature outside the ids [offsets[t], offsets[t + 1]) of each, which rise
   without repeats (else KULLBACK_TOKEN), into out (T,). lse and top1 are those of kullback_describe. */
int64_t kullback_rest_mass(const kullback_array *x, const double *lse, const int64_t *top1, const int64_t *offsets,
                           const int64_t *ids, int64_t vocab, double inverse_temperature, double *out, int64_t start,
                           int64_t stop, int64_t *bad_row);

/* exp(x) - 1 - x of the elements start <= t < stop of x into out, to 1e-15 relative, inf above a double's range: the
   estimator k3 of KL(policy||ref) for x = log ref - log policy. out may be x. */
int64_t kullback_phi(const double *x, double *out, int64_t start, int64_t stop, int64_t *bad_row);

/* The statistics of T pairs of rows of log-probabilities that may be clipped: element v of a row of KULLBACK_AFFINE16
   whose codes span window_p (window_q) >= 0 nats is known only to be at most the row's `min` where its code is 0. Other
   storages hold logits. kl and reverse_kl: sum p ln(p/q) - p + q (and p, q exchanged), each clipped element counting
   with the least that the rows allow; entropy (-sum p ln p) and lse: of what is known; log_prob of a clipped token:
   `min`; jensen_shannon (may be NULL): sum p ln(p/m) + q ln(q/m), halved, m = (p + q) / 2, of the same elements as kl;
   acceptance: 1 - sum |p - q| / 2 of these.
   room: 2 * vocab floats for this call alone. */
int64_t kullback_compare_clipped(const kullback_array *p, const kullback_array *q, const int64_t *tokens,
                                 int64_t vocab, double window_p, double window_q, float *room,
                                 const kullback_comparison *out, double *jensen_shannon, int64_t start,
                                 int64_t stop, int64_t *bad_row);

/* END CDEF */

#ifdef __cplusplus
}
#endif
#endif
