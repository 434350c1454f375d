/* KL(p||q) of every row of two arrays of logits, on several threads.
 *
 *     export PKG_CONFIG_PATH=$(python -c "import kullback, os; print(os.path.dirname(kullback.get_library()))")/pkgconfig
 *     cc compare_rows.c $(pkg-config --cflags --libs kullback) -lm -lpthread -o compare_rows
 *
 * The library starts no threads: rows are independent, so the caller hands out ranges of them, and the bits of the
 * result do not depend on how.
 */
#include <kullback.h>

#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>

enum { ROWS = 1000, VOCABULARY = 5003, THREADS = 4 };

static float p[ROWS][VOCABULARY], q[ROWS][VOCABULARY];
static double kl[ROWS], alone[ROWS];
static int64_t same_top1_p[ROWS], same_top1_q[ROWS];

typedef struct {
  int64_t start, stop, status, bad_row;
} share;

static int64_t compare(double *into, int64_t start, int64_t stop, int64_t *bad_row) {
  const kullback_array rows_p = {p, NULL, sizeof p[0], sizeof p[0][0], KULLBACK_FLOAT32};
  const kullback_array rows_q = {q, NULL, sizeof q[0], sizeof q[0][0], KULLBACK_FLOAT32};
  const kullback_comparison out = {.kl = into, .top1_p = same_top1_p, .top1_q = same_top1_q};
  const double inverse_temperature = 1.0;
  return kullback_compare(&rows_p, &rows_q, NULL, VOCABULARY, KULLBACK_LOGS, inverse_temperature, &out, start, stop,
                          bad_row);
}

static void *work(void *of) {
  share *mine = of;
  mine->status = compare(kl, mine->start, mine->stop, &mine->bad_row);
  return NULL;
}

int main(void) {
  if (!kullback_supported()) {
    fprintf(stderr, "this processor lacks what the library needs\n");
    return 1;
  }
  for (int t = 0; t < ROWS; t++) {
    for (int v = 0; v < VOCABULARY; v++) {
      p[t][v] = (float)(10.0 * sin(0.37 * v + t));
      q[t][v] = p[t][v] + (float)(0.01 * cos(1.7 * v));
    }
  }
  pthread_t threads[THREADS];
  share shares[THREADS];
  for (int i = 0; i < THREADS; i++) {
    shares[i] = (share){.start = ROWS * i / THREADS, .stop = ROWS * (i + 1) / THREADS};
    if (pthread_create(&threads[i], NULL, work, &shares[i]) != 0) return 1;
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    if (shares[i].status != KULLBACK_OK) {
      fprintf(stderr, "row %lld: status %lld\n", (long long)shares[i].bad_row, (long long)shares[i].status);
      return 1;
    }
  }
  if (compare(alone, 0, ROWS, NULL) != KULLBACK_OK) return 1;

  double mean = 0.0;
  int same_bits = 1, same_top1 = 0;
  for (int t = 0; t < ROWS; t++) {
    mean += kl[t] / ROWS;
    same_bits &= kl[t] == alone[t];
    same_top1 += same_top1_p[t] == same_top1_q[t];
  }
  printf("mean KL %.6e nats, same top-1 in %d of %d rows, same bits on one thread: %s\n", mean, same_top1, ROWS,
         same_bits ? "yes" : "no");
  return 0;
}
