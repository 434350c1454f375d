/* Calls functions of kullback.h as a file describes, and writes down what they answered and wrote.
 *
 *     replay CALLS ANSWERS [here]
 *
 * It says whether the library runs on this processor, and how many bytes of stack the calls took; with `here` (for
 * valgrind, which follows one stack) they take the program's own, and the second number is 0.
 *
 * Every buffer of a call lies between two pages that may not be touched: it ends where the second begins, or begins
 * where the first ends, so that one byte read or written outside it ends the program. Buffers that a function only
 * reads are read-only memory. Numbers in both files are 64-bit words of this machine:
 *
 *     calls    count, then for each call: function (its place in the header), buffers, arguments
 *     buffer   bytes, whether at the start of its pages, whether written to, pointers, (word, buffer, offset) for each
 *              pointer in it, its bytes padded to a whole word
 *     argument kind (0 integer, 1 double, 2 pointer into a buffer, 3 NULL), integer or bits or buffer, offset
 *     answers  for each call: the status, then the bytes, padded, of the buffers that are written to
 */
#include <kullback.h>

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST_BUFFERS = 32, MOST_ARGUMENTS = 32, STACK = 1 << 21, UNTOUCHED = 0x5C };

typedef struct {
  unsigned char *data;
  size_t size;
  int written;
  unsigned char *pages;
  size_t mapped;
} buffer;

typedef struct {
  int64_t integer;
  double real;
  void *pointer;
} argument;

#include "dispatch.h" /* made from the header: static int64_t dispatch(int64_t function, const argument *a) */

static void require(int true_, const char *what) {
  if (!true_) {
    perror(what);
    exit(2);
  }
}

static int64_t word(FILE *file) {
  int64_t value;
  require(fread(&value, sizeof value, 1, file) == 1, "reading the calls");
  return value;
}

static size_t padded(size_t size) { return (size + 7) / 8 * 8; }

static void read_buffer(FILE *file, buffer *buffers, int64_t index) {
  buffer *b = &buffers[index];
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  b->size = (size_t)word(file);
  const int at_start = (int)word(file);
  b->written = (int)word(file);
  const size_t inside = (b->size + page) / page * page;
  b->mapped = inside + 2 * page;
  b->pages = mmap(NULL, b->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  require(b->pages != MAP_FAILED, "mmap");
  b->data = at_start ? b->pages + page : b->pages + page + inside - b->size;

  int64_t places[3 * MOST_BUFFERS];
  const int64_t pointers = word(file);
  require(pointers <= MOST_BUFFERS, "too many pointers in a buffer");
  for (int64_t i = 0; i < 3 * pointers; i++) places[i] = word(file);
  require(fread(b->data, 1, b->size, file) == b->size, "reading a buffer");
  require(fseek(file, (long)(padded(b->size) - b->size), SEEK_CUR) == 0, "fseek");
  for (int64_t i = 0; i < pointers; i++) {
    require(places[3 * i + 1] < index, "a pointer to a later buffer");
    const void *target = buffers[places[3 * i + 1]].data + places[3 * i + 2];
    memcpy(b->data + 8 * places[3 * i], &target, sizeof target);
  }
  require(mprotect(b->pages, page, PROT_NONE) == 0, "mprotect");
  require(mprotect(b->pages + page + inside, page, PROT_NONE) == 0, "mprotect");
  if (!b->written) require(mprotect(b->pages + page, inside, PROT_READ) == 0, "mprotect");
}

static argument read_argument(FILE *file, const buffer *buffers) {
  argument a = {0, 0.0, NULL};
  const int64_t kind = word(file), value = word(file), offset = word(file);
  if (kind == 0) a.integer = value;
  if (kind == 1) memcpy(&a.real, &value, sizeof a.real);
  if (kind == 2) a.pointer = buffers[value].data + offset;
  return a;
}

static unsigned char *stack; /* of the thread that calls, which grows from its end */
static size_t most_stack;
static int64_t to_call, status;
static const argument *with;

static void *call(void *unused) {
  (void)unused;
  status = dispatch(to_call, with);
  return NULL;
}

/* On a stack of its own, from which one sees how much of it was used. */
static void call_apart(int64_t function, const argument *arguments) {
  pthread_attr_t attributes;
  pthread_t thread;
  memset(stack, UNTOUCHED, STACK);
  to_call = function;
  with = arguments;
  require(pthread_attr_init(&attributes) == 0, "pthread_attr_init");
  require(pthread_attr_setstack(&attributes, stack, STACK) == 0, "pthread_attr_setstack");
  require(pthread_create(&thread, &attributes, call, NULL) == 0, "pthread_create");
  require(pthread_join(thread, NULL) == 0, "pthread_join");
  require(pthread_attr_destroy(&attributes) == 0, "pthread_attr_destroy");
  size_t untouched = 0;
  while (untouched < STACK && stack[untouched] == UNTOUCHED) untouched++;
  if (STACK - untouched > most_stack) most_stack = STACK - untouched;
}

static void replay(FILE *calls, FILE *answers) {
  const int64_t function = word(calls), buffer_count = word(calls), argument_count = word(calls);
  buffer buffers[MOST_BUFFERS];
  argument arguments[MOST_ARGUMENTS];
  require(buffer_count <= MOST_BUFFERS && argument_count <= MOST_ARGUMENTS, "a call too large");
  for (int64_t i = 0; i < buffer_count; i++) read_buffer(calls, buffers, i);
  for (int64_t i = 0; i < argument_count; i++) arguments[i] = read_argument(calls, buffers);

  if (stack == NULL) {
    status = dispatch(function, arguments);
  } else {
    call_apart(function, arguments);
  }
  require(fwrite(&status, sizeof status, 1, answers) == 1, "writing the answers");
  const char zeros[8] = {0};
  for (int64_t i = 0; i < buffer_count; i++) {
    const buffer *b = &buffers[i];
    if (b->written) {
      require(fwrite(b->data, 1, b->size, answers) == b->size, "writing a buffer");
      require(fwrite(zeros, 1, padded(b->size) - b->size, answers) == padded(b->size) - b->size, "writing a buffer");
    }
    require(munmap(b->pages, b->mapped) == 0, "munmap");
  }
}

int main(int count, char **names) {
  if (count != 3 && !(count == 4 && strcmp(names[3], "here") == 0)) {
    fprintf(stderr, "usage: %s CALLS ANSWERS [here]\n", names[0]);
    return 2;
  }
  FILE *calls = fopen(names[1], "rb"), *answers = fopen(names[2], "wb");
  require(calls != NULL && answers != NULL, "opening the files");
  if (count == 3) {
    stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(stack != MAP_FAILED, "mmap");
  }
  const int64_t todo = word(calls);
  for (int64_t i = 0; i < todo; i++) replay(calls, answers);
  require(fclose(calls) == 0 && fclose(answers) == 0, "closing the files");
  printf("%d %zu\n", kullback_supported(), most_stack);
  return 0;
}
